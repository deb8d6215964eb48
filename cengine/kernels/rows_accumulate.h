/* The order of accumulation, the same in both phases: lanes are rows, and for blocks b of 32
 * columns in ascending order, starting from acc = 0,
 *     acc = fma(float(isum[b]), w_scale[b] * x_scale[b], acc)
 *     acc = fma(-w_min[b], x_scale[b] * float(x_sum[b]), acc)      (types with a min)
 * where isum[b] is the exact integer sum of w_q * x_q over the block, and x_sum[b] that of x_q,
 * with integer scales of 16 columns as factors inside (mult, min_mult). Included after a tier's
 * *_rows.h. */
#ifndef CE_ROWS_ACCUMULATE_H
#define CE_ROWS_ACCUMULATE_H

#include "rows_tokens.h"

INLINE ints splat_int(int32_t v) { return v - (ints){0}; }

INLINE floats splat(float v) { return v - (floats){0}; }

/* half[0] * mult[0] + half[1] * mult[1]. Every product and the sum are below 2^24: exact, in floats
 * as in integers. */
INLINE floats weighted(const block_format *f, const ints half[2], const row_scales *s, int b) {
    if (f->has_short_mult) {
        return to_floats(dot_2((half[0] & 0xffff) | half[1] << 16, s->short_mult[b]));
    }
    const floats *mult = s->mult[b];
    return multiply_add(to_floats(half[0]), mult[0], to_floats(half[1]) * mult[1]);
}

INLINE floats accumulate(const block_format *f, floats acc, const ints half[2], const row_scales *s,
                         int b, block_terms x) {
    const floats isum = f->has_mult ? weighted(f, half, s, b) : to_floats(half[0] + half[1]);
    acc = multiply_add(isum, s->scale[b] * x.scale, acc);
    if (f->has_min_mult) {
        const ints x_sum = dot_2((ints)broadcast_4(x.sums.half), s->min_mult[b]);
        acc = subtract_product(s->min[b], x.scale * to_floats(x_sum), acc);
    } else if (f->has_min) {
        acc = subtract_product(s->min[b], splat(x.sums.scaled), acc);
    }
    return acc;
}

/* ---- Of several panels and tokens ---- */

/* add_products() for columns in registers, or add_panel_products(). */
typedef void products_fn(ints sum[PANELS][TILE], const bytes *const w[PANELS], int n_panels, int g0,
                         int g1, const int8_t *q, int n_tokens, bool is_signed, int max_quant);

/* half[h][p][t] = the integers that accumulate() wants, of a block of n_panels panels and n_tokens
 * tokens. */
INLINE void multiply_columns(ints half[2][PANELS][TILE], const block_format *f, products_fn *add,
                             const bytes *const w[PANELS], int n_panels, block_tokens x,
                             int n_tokens) {
    const int n_halves = f->has_mult ? 2 : 1, n_groups = GROUPS / n_halves;
#pragma GCC unroll 2 /* halves */
    for (int h = 0; h < 2; h++) {
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *half_sum = x.terms[t].sums.half;
            const int32_t sum = f->has_mult ? half_sum[h] : half_sum[0] + half_sum[1];
            const ints start = h < n_halves ? splat_int(-offset_of(f) * sum) : (ints){0};
            for (int p = 0; p < n_panels; p++) {
                half[h][p][t] = start;
            }
        }
        if (h < n_halves) {
            add(half[h], w, n_panels, h * n_groups, (h + 1) * n_groups, x.q, n_tokens, f->is_signed,
                f->max_quant);
        }
    }
}

/* acc[j][i] plus the products of block b of the i-th of n_panels panels with the j-th of n_tokens
 * tokens. */
INLINE void add_products_of_block(floats acc[TILE][PANELS], const block_format *f, products_fn *add,
                                  const bytes *const w[PANELS], const row_scales *const s[PANELS],
                                  int n_panels, int b, block_tokens x, int n_tokens) {
    ints half[2][PANELS][TILE];
    multiply_columns(half, f, add, w, n_panels, x, n_tokens);
    for (int j = 0; j < n_tokens; j++) {
        for (int i = 0; i < n_panels; i++) {
            const ints halves[2] = {half[0][i][j], half[1][i][j]};
            acc[j][i] = accumulate(f, acc[j][i], halves, s[i], b, x.terms[j]);
        }
    }
}

#endif
