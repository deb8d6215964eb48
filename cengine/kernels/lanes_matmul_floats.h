/* The matmuls of the float types, the same code in both phases: included by the file of each tier,
 * after its *_load.h, with its name in TIER and the tokens whose sums fit its registers in TILE.
 *
 * The order of accumulation: lane j takes columns j, j + LANES, j + 2 * LANES ... with
 *     acc[j] = fma(w, x, acc[j])
 * where columns beyond the last count as 0 * 0; then y = sum_lanes(acc). */
#ifndef CE_LANES_MATMUL_FLOATS_H
#define CE_LANES_MATMUL_FLOATS_H

#include "inline.h"
#include "overlay.h"

enum { ROWS = 4 };

/* Elements i ... i + LANES - 1 of a row. */
typedef lanes load_fn(const void *row, int i);
/* Elements i ... i + n - 1 (n < LANES), and zeros. */
typedef lanes load_tail_fn(const void *row, int i, int n);

/* Four rows times n_tokens (at most TILE) tokens. */
INLINE void dot_tile(lanes acc[ROWS][TILE], const void *const row[ROWS], const float *x,
                     int n_tokens, int n_cols, load_fn *load_w, load_tail_fn *load_w_tail) {
    for (int r = 0; r < ROWS; r++) {
        for (int t = 0; t < n_tokens; t++) {
            acc[r][t] = splat(0.0f);
        }
    }
    const int n_whole = n_cols / LANES * LANES, n_tail = n_cols - n_whole;
    for (int i = 0; i < n_whole; i += LANES) {
        lanes w[ROWS];
        for (int r = 0; r < ROWS; r++) {
            w[r] = load_w(row[r], i);
        }
        for (int t = 0; t < n_tokens; t++) {
            const lanes xt = load(x + (size_t)t * n_cols + i);
            for (int r = 0; r < ROWS; r++) {
                acc[r][t] = fma_lanes(w[r], xt, acc[r][t]);
            }
        }
    }
    for (int t = 0; t < n_tokens && n_tail > 0; t++) {
        const lanes xt = load_first(x + (size_t)t * n_cols + n_whole, n_tail);
        for (int r = 0; r < ROWS; r++) {
            acc[r][t] = fma_lanes(load_w_tail(row[r], n_whole, n_tail), xt, acc[r][t]);
        }
    }
}

INLINE void multiply_tile(float *y, size_t y_stride, const void *const row[ROWS], int n_rows,
                          const float *x, int n_tokens, int n_cols, load_fn *load_w,
                          load_tail_fn *load_w_tail) {
    lanes acc[ROWS][TILE];
    dot_tile(acc, row, x, n_tokens, n_cols, load_w, load_w_tail);
    for (int t = 0; t < n_tokens; t++) {
        for (int r = 0; r < ROWS; r++) {
            const float sum = sum_lanes(acc[r][t]);
            if (r < n_rows) {
                y[t * y_stride + r] = sum;
            }
        }
    }
}

/* Rows beyond the last repeat it, and are not stored. */
INLINE void matmul_floats(float *y, size_t y_stride, const void *w, size_t w_row_bytes, int n_rows,
                          const float *x, int n_tokens, int n_cols, load_fn *load_w,
                          load_tail_fn *load_w_tail) {
    for (int r = 0; r < n_rows; r += ROWS) {
        const void *row[ROWS];
        for (int i = 0; i < ROWS; i++) {
            row[i] = (const char *)w + min_int(r + i, n_rows - 1) * w_row_bytes;
        }
        const int n = min_int(ROWS, n_rows - r);
        int t = 0;
        for (; t + TILE <= n_tokens; t += TILE) {
            multiply_tile(y + t * y_stride + r, y_stride, row, n, x + (size_t)t * n_cols, TILE,
                          n_cols, load_w, load_w_tail);
        }
        for (; t < n_tokens; t++) {
            multiply_tile(y + t * y_stride + r, y_stride, row, n, x + (size_t)t * n_cols, 1, n_cols,
                          load_w, load_w_tail);
        }
    }
}

#define DEFINE_MATMUL(type)                                                                        \
    static void matmul_##type(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols,              \
                              void *work) {                                                        \
        (void)work;                                                                                \
        matmul_floats(y, y_stride, w, w_row_bytes, n_rows, x->f32, n_tokens, n_cols, load_##type,  \
                      load_tail_##type);                                                           \
    }

DEFINE_MATMUL(f32)
DEFINE_MATMUL(f16)
DEFINE_MATMUL(bf16)

static void overlay_float_types(ce_kernels *k) {
    OVERLAY_MATMUL(k, TIER, CE_TYPE_F32, f32, NULL);
    OVERLAY_MATMUL(k, TIER, CE_TYPE_F16, f16, NULL);
    OVERLAY_MATMUL(k, TIER, CE_TYPE_BF16, bf16, NULL);
}

#endif
