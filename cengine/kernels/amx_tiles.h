/* The tile registers of AMX, and what goes into them. The instructions are asm, not intrinsics: gcc
 * 12's intrinsics are not ordered with the loads and stores around them, and its tile configuration
 * can get lost. */
#ifndef CE_AMX_TILES_H
#define CE_AMX_TILES_H

#include <stdint.h>

#include <immintrin.h>

#include "inline.h"

/* All eight tiles are 16 rows of 64 bytes: 64 int8, 32 bf16 (TILE_COLS), 16 int32 or floats. */
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
#define TILE_LOAD_WITH(instruction, n, from, row_bytes)                                            \
    __asm__ volatile(instruction " (%0,%1,1), %%tmm" #n                                            \
                     :                                                                             \
                     : "r"(from), "r"((intptr_t)(row_bytes))                                       \
                     : "memory")
#define TILE_STORE_ROWS(to, n, row_bytes)                                                          \
    __asm__ volatile("tilestored %%tmm" #n ", (%0,%1,1)"                                           \
                     :                                                                             \
                     : "r"(to), "r"((intptr_t)(row_bytes))                                         \
                     : "memory")
#define TILE_LOAD_ROWS(n, from, row_bytes) TILE_LOAD_WITH("tileloadd", n, from, row_bytes)
#define TILE_LOAD(n, from)                 TILE_LOAD_ROWS(n, from, TILE_ROW_BYTES)
#define TILE_LOAD_ONCE(n, from)            TILE_LOAD_WITH("tileloaddt1", n, from, TILE_ROW_BYTES)
#define TILE_STORE(to, n)                  TILE_STORE_ROWS(to, n, TILE_ROW_BYTES)
/* c += a * b; row p of b holds rows 2 p and 2 p + 1 of the matrix, side by side in pairs. */
#define TILE_MULTIPLY_BF16(c, a, b)                                                                \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
/* The same of int8, in int32; row p of b holds rows 4 p to 4 p + 3, side by side in fours. */
#define TILE_MULTIPLY_INT8(c, a, b)                                                                \
    __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

/* ---- What goes into them ---- */

/* 16 rows of 64 bytes. */
typedef __m512i tile_rows[TILE_SIDE];

/* v[i] lane j becomes v[j] lane i. */
INLINE void transpose_tile(tile_rows v) {
    tile_rows a, b;
    for (int i = 0; i < 16; i += 4) { /* 4 x 4 within quarters */
        const __m512i low01 = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        const __m512i high01 = _mm512_unpackhi_epi32(v[i], v[i + 1]);
        const __m512i low23 = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]);
        const __m512i high23 = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
        a[i] = _mm512_unpacklo_epi64(low01, low23);
        a[i + 1] = _mm512_unpackhi_epi64(low01, low23);
        a[i + 2] = _mm512_unpacklo_epi64(high01, high23);
        a[i + 3] = _mm512_unpackhi_epi64(high01, high23);
    }
    for (int i = 0; i < 4; i++) { /* then the quarters */
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
        v[i + 4] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd);
        v[i + 12] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd);
    }
}

INLINE __m512i to_bf16(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

#endif
