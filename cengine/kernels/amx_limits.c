/* The limit of AMX: tdpbssd, with as many sums as hide its latency. */
#include "amx.h"
#include "amx_tiles.h"

enum { N_SUMS = 4 };

static void multiply(int64_t n_rounds) {
    tiles_configure();
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_ZERO(4);
    TILE_ZERO(5);
    TILE_ZERO(6);
    TILE_ZERO(7);
    for (int64_t n = 0; n < n_rounds; n++) {
        TILE_MULTIPLY_INT8(0, 4, 6);
        TILE_MULTIPLY_INT8(1, 5, 6);
        TILE_MULTIPLY_INT8(2, 4, 7);
        TILE_MULTIPLY_INT8(3, 5, 7);
    }
    tiles_release();
}

void ce_amx_limits(ce_kernels *k) {
    k->peak =
        (ce_peak){"tdpbssd", (int64_t)N_SUMS * TILE_SIDE * TILE_SIDE * TILE_ROW_BYTES, multiply};
}
