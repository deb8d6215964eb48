/* Products of the quants of avx2_rows.h, with vpdpbusd. */
#ifndef CE_AVXVNNI_PRODUCTS_H
#define CE_AVXVNNI_PRODUCTS_H

#include "avx2_rows.h"

/* What one sweep keeps in registers: PANELS times ROWS rows, TILE tokens. The panels of BLOCK_TILES
 * sweeps lie in L1 together. */
enum { PANELS = 2, TILE = 4, BLOCK_TILES = 2 };

/* Up to so many tokens multiply weights sooner from registers than from panels: the file's rows,
 * and repacked ones. */
enum { ROW_STREAM_TOKENS = 1, REPACKED_STREAM_TOKENS = 1 };

/* What makes signed quants fit for dot_4: vpdpbusd multiplies unsigned weights. */
enum { SIGNED_OFFSET = 128 };

/* sum plus, in each lane, the products of four bytes. */
INLINE ints dot_4(ints sum, bytes w, bytes x, int max_signed) {
    (void)max_signed; /* they have been made unsigned */
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
}

#include "rows_products.h"

#endif
