/* The tile registers of AMX. The instructions are asm, not intrinsics: gcc 12's intrinsics are not
 * ordered with the loads and stores around them, and its tile configuration can get lost. */
#ifndef CE_AMX_TILES_H
#define CE_AMX_TILES_H

#include <stdint.h>

/* All eight tiles are 16 rows of 64 bytes: 32 bf16 or 16 floats. */
enum { TILE_SIDE = 16, TILE_COLS = 32, TILE_BYTES = 1024, TILE_ROW_BYTES = 64 };

/* The operand of ldtilecfg (Intel SDM volume 1, 18.3). */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

_Static_assert(sizeof(tile_config) == 64, "tile configuration");

static inline void tiles_configure(void) {
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = TILE_ROW_BYTES;
        config.rows[i] = TILE_SIDE;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

static inline void tiles_release(void) { __asm__ volatile("tilerelease" : : : "memory"); }

#define TILE_ZERO(n) __asm__ volatile("tilezero %%tmm" #n : :)
#define TILE_LOAD(n, from)                                                                         \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #n                                               \
                     :                                                                             \
                     : "r"(from), "r"((intptr_t)TILE_ROW_BYTES)                                    \
                     : "memory")
#define TILE_STORE(to, n)                                                                          \
    __asm__ volatile("tilestored %%tmm" #n ", (%0,%1,1)"                                           \
                     :                                                                             \
                     : "r"(to), "r"((intptr_t)TILE_ROW_BYTES)                                      \
                     : "memory")
/* c += a * b; row p of b holds rows 2 p and 2 p + 1 of the matrix, side by side in pairs. */
#define TILE_MULTIPLY_BF16(c, a, b)                                                                \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#endif
