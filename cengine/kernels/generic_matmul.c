/* Generic matmuls: the specification.
 *
 * Block types. For blocks b of 32 columns, in ascending order, starting from y = 0:
 *     y = y + (w_scale[b] * x_scale[b]) * float(isum[b])
 *     y = y - w_min[b] * (x_scale[b] * float(x_sum[b]))          (types with a min)
 * where isum[b] is the exact integer sum of w_q * x_q over the block, and x_sum[b] that of x_q;
 * integer scales of 16 columns are factors inside them (q2_K, for its mins too; q3_K, q6_K, iq2_xs,
 * iq2_s, iq1_m). Both are below 2^24, so that their conversion is exact too.
 *
 * Float types. Lane j (of 8) sums the products of columns j, j + 8, j + 16 ... in that order; the
 * lanes are added as ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)).
 *
 * Both phases share the code. */
#include "generic.h"
#include "generic_blocks.h"
#include "generic_blocks_iq.h"
#include "inline.h"
#include "overlay.h"

enum { TOKENS = 8, LANES = 8 };

enum { NO_MIN, HAS_MIN };

static inline int dot16(const int8_t *a, const int8_t *b) {
    int sum = 0;
    for (int i = 0; i < 16; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* One weight row times n_tokens (at most TOKENS) rows of activations. */
INLINE void row_times_tokens(float acc[TOKENS], const void *row, const ce_acts *x, int token,
                             int n_tokens, int n_cols, unpack_fn *unpack, bool has_min) {
    const int n_blocks = n_cols / CE_QK;
    for (int b = 0; b < n_blocks; b++) {
        columns32 w;
        unpack(&w, row, b);
        for (int t = 0; t < n_tokens; t++) {
            const size_t block = (size_t)(token + t) * n_blocks + b;
            const int8_t *q = x->q + block * CE_QK;
            const int isum = w.mult[0] * dot16(w.q, q) + w.mult[1] * dot16(w.q + 16, q + 16);
            acc[t] += (w.scale * x->scale[block]) * (float)isum;
            if (has_min) {
                const int16_t *x_half = x->sums[block].half;
                const int x_sum = w.min_mult[0] * x_half[0] + w.min_mult[1] * x_half[1];
                acc[t] -= w.min * (x->scale[block] * (float)x_sum);
            }
        }
    }
}

INLINE void matmul_blocks(float *y, size_t y_stride, const void *w, size_t w_row_bytes, int n_rows,
                          const ce_acts *x, int n_tokens, int n_cols, unpack_fn *unpack,
                          bool has_min) {
    for (int r = 0; r < n_rows; r++) {
        const char *row = (const char *)w + r * w_row_bytes;
        for (int t0 = 0; t0 < n_tokens; t0 += TOKENS) {
            const int n = min_int(n_tokens - t0, TOKENS);
            float acc[TOKENS] = {0};
            row_times_tokens(acc, row, x, t0, n, n_cols, unpack, has_min);
            for (int t = 0; t < n; t++) {
                y[(t0 + t) * y_stride + r] = acc[t];
            }
        }
    }
}

typedef float load_fn(const void *row, int64_t i);

INLINE float dot_floats(const void *row, const float *x, int n_cols, load_fn *load) {
    float sum[LANES] = {0};
    for (int i = 0; i < n_cols; i++) {
        sum[i % LANES] += load(row, i) * x[i];
    }
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

INLINE void matmul_floats(float *y, size_t y_stride, const void *w, size_t w_row_bytes, int n_rows,
                          const ce_acts *x, int n_tokens, int n_cols, load_fn *load) {
    for (int r = 0; r < n_rows; r++) {
        const char *row = (const char *)w + r * w_row_bytes;
        for (int t = 0; t < n_tokens; t++) {
            y[t * y_stride + r] = dot_floats(row, x->f32 + (size_t)t * n_cols, n_cols, load);
        }
    }
}

#define DEFINE_MATMUL(TYPE, type, body, ...)                                                       \
    static void matmul_##type(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols,              \
                              void *work) {                                                        \
        (void)work;                                                                                \
        body(y, y_stride, w, w_row_bytes, n_rows, x, n_tokens, n_cols, __VA_ARGS__);               \
    }

#define FOR_TYPES(DO)                                                                              \
    DO(F32, f32, matmul_floats, load_f32)                                                          \
    DO(F16, f16, matmul_floats, load_f16)                                                          \
    DO(BF16, bf16, matmul_floats, load_bf16)                                                       \
    DO(Q4_0, q4_0, matmul_blocks, unpack_q4_0, NO_MIN)                                             \
    DO(Q4_1, q4_1, matmul_blocks, unpack_q4_1, HAS_MIN)                                            \
    DO(Q5_0, q5_0, matmul_blocks, unpack_q5_0, NO_MIN)                                             \
    DO(Q5_1, q5_1, matmul_blocks, unpack_q5_1, HAS_MIN)                                            \
    DO(Q8_0, q8_0, matmul_blocks, unpack_q8_0, NO_MIN)                                             \
    DO(Q2_K, q2_K, matmul_blocks, unpack_q2_K, HAS_MIN)                                            \
    DO(Q3_K, q3_K, matmul_blocks, unpack_q3_K, NO_MIN)                                             \
    DO(Q4_K, q4_K, matmul_blocks, unpack_q4_K, HAS_MIN)                                            \
    DO(Q5_K, q5_K, matmul_blocks, unpack_q5_K, HAS_MIN)                                            \
    DO(Q6_K, q6_K, matmul_blocks, unpack_q6_K, NO_MIN)                                             \
    DO(IQ4_NL, iq4_nl, matmul_blocks, unpack_iq4_nl, NO_MIN)                                       \
    DO(IQ4_XS, iq4_xs, matmul_blocks, unpack_iq4_xs, NO_MIN)                                       \
    DO(IQ3_XXS, iq3_xxs, matmul_blocks, unpack_iq3_xxs, NO_MIN)                                    \
    DO(IQ3_S, iq3_s, matmul_blocks, unpack_iq3_s, NO_MIN)                                          \
    DO(IQ2_XXS, iq2_xxs, matmul_blocks, unpack_iq2_xxs, NO_MIN)                                    \
    DO(IQ2_XS, iq2_xs, matmul_blocks, unpack_iq2_xs, NO_MIN)                                       \
    DO(IQ2_S, iq2_s, matmul_blocks, unpack_iq2_s, NO_MIN)                                          \
    DO(IQ1_S, iq1_s, matmul_blocks, unpack_iq1_s, NO_MIN)                                          \
    DO(IQ1_M, iq1_m, matmul_blocks, unpack_iq1_m, NO_MIN)

FOR_TYPES(DEFINE_MATMUL)

#define OVERLAY_TYPE(TYPE, type, ...) OVERLAY_MATMUL(k, "generic", CE_TYPE_##TYPE, type, NULL);

void ce_generic_matmul(ce_kernels *k) { FOR_TYPES(OVERLAY_TYPE) }
