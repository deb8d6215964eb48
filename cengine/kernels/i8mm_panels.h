/* Panels of rows in pairs, of eight columns each, for smmla (Arm's FEAT_I8MM): it multiplies two
 * rows of eight columns with those of two tokens. The vocabulary is that of neon_rows.h. */
#ifndef CE_I8MM_PANELS_H
#define CE_I8MM_PANELS_H

#include "neon_rows.h"

enum { PAIRS = TILE / 2 /* of tokens */ };

/* A block's columns, in the order that add_panel_products() wants: of groups 2 j and 2 j + 1 rows 0
 * and 1, then rows 2 and 3. */
INLINE void order_panel(bytes quants[8]) {
    for (int g = 0; g < 8; g += 2) {
        const int32x4_t first = (int32x4_t)quants[g], second = (int32x4_t)quants[g + 1];
        quants[g] = (bytes)vzip1q_s32(first, second);
        quants[g + 1] = (bytes)vzip2q_s32(first, second);
    }
}

/* As add_products(), of ordered panels. The groups are pairs. The last of an odd number of tokens
 * is multiplied twice. */
INLINE void add_panel_products(ints sum[PANELS][TILE], const bytes *const w[PANELS], int n_panels,
                               int g0, int g1, const int8_t *q, int n_tokens, bool is_signed,
                               int max_quant) {
    (void)is_signed;
    (void)max_quant;                                 /* 32 bits hold any sum */
    int32x4_t product[PANELS][PAIRS][2] = {{{{0}}}}; /* rows 0 and 1 times two tokens; 2 and 3 */
    for (int g = g0; g < g1; g += 2) {
        for (int t = 0; t < n_tokens; t += 2) {
            const int8_t *first = q + 32 * t + 4 * g;
            const int8_t *second = t + 1 < n_tokens ? first + 32 : first;
            const int8x16_t x = vcombine_s8(vld1_s8(first), vld1_s8(second));
            for (int p = 0; p < n_panels; p++) {
                for (int h = 0; h < 2; h++) {
                    int32x4_t *to = &product[p][t / 2][h];
                    *to = vmmlaq_s32(*to, (int8x16_t)w[p][g + h], x);
                }
            }
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int p = 0; p < n_panels; p++) {
            const int32x4_t *of = product[p][t / 2];
            sum[p][t] += (ints)(t % 2 == 0 ? vuzp1q_s32(of[0], of[1]) : vuzp2q_s32(of[0], of[1]));
        }
    }
}

#endif
