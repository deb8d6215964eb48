/* Sums of products where one instruction adds those of four bytes: included after dot_4. */
#ifndef CE_ROWS_PRODUCTS_H
#define CE_ROWS_PRODUCTS_H

/* In each lane, the products of four bytes of two vectors each. */
INLINE ints dot_8(const bytes w[2], const bytes x[2], bool is_signed, int max_quant) {
    const int max_signed = is_signed ? max_quant : 0;
    return dot_4(dot_4((ints){0}, w[0], x[0], max_signed), w[1], x[1], max_signed);
}

/* sum[p][t] += the products of groups [g0, g1) of panel p of n_panels, of four columns, with token
 * t, whose 32 columns are at q + 32 * t. */
INLINE void add_products(ints sum[PANELS][TILE], const bytes *const w[PANELS], int n_panels, int g0,
                         int g1, const int8_t *q, int n_tokens, bool is_signed, int max_quant) {
    const int max_signed = is_signed ? max_quant : 0;
    for (int g = g0; g < g1; g++) {
        for (int t = 0; t < n_tokens; t++) {
            const bytes x = broadcast_4(q + 32 * t + 4 * g);
            for (int p = 0; p < n_panels; p++) {
                sum[p][t] = dot_4(sum[p][t], w[p][g], x, max_signed);
            }
        }
    }
}

#include "plain_panels.h"

#endif
