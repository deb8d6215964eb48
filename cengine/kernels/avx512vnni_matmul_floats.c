/* AVX-512 matmuls of the float types, the same code in both phases.
 *
 * The order of accumulation: lane j (of 16) takes columns j, j + 16, j + 32 ... with
 *     acc[j] = fma(w, x, acc[j])
 * where columns beyond the last count as 0 * 0; then lanes j and j + 8 are added, and the eight
 * sums as ((0+1) + (2+3)) + ((4+5) + (6+7)). */
#include "avx512vnni.h"
#include "inline.h"
#include "overlay.h"

#include <immintrin.h>

enum { LANES = 16, ROWS = 4, TILE = 4 /* tokens */ };

static inline int min_int(int a, int b) { return a < b ? a : b; }

INLINE __mmask16 first_lanes(int n) { return n >= LANES ? 0xffff : (__mmask16)((1 << n) - 1); }

/* Elements i ... i + 15 of a row where the mask has a 1, or else 0. */
typedef __m512 load_fn(const void *row, int i, __mmask16 mask);

INLINE __m512 load_f32(const void *row, int i, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, (const float *)row + i);
}

INLINE __m256i load_halves(const void *row, int i, __mmask16 mask) {
    return _mm256_maskz_loadu_epi16(mask, (const char *)row + 2 * (size_t)i);
}

INLINE __m512 load_f16(const void *row, int i, __mmask16 mask) {
    return _mm512_cvtph_ps(load_halves(row, i, mask));
}

INLINE __m512 load_bf16(const void *row, int i, __mmask16 mask) {
    const __m512i wide = _mm512_cvtepu16_epi32(load_halves(row, i, mask));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE float sum_lanes(__m512 v) {
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    s = _mm256_hadd_ps(s, s);
    s = _mm256_hadd_ps(s, s);
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

/* Adds 16 columns of four rows times n_tokens (at most TILE) tokens. */
INLINE void add_columns(__m512 acc[ROWS][TILE], const void *const row[ROWS], const float *x, int i,
                        __mmask16 mask, int n_tokens, int n_cols, load_fn *load) {
    __m512 w[ROWS];
    for (int r = 0; r < ROWS; r++) {
        w[r] = load(row[r], i, mask);
    }
    for (int t = 0; t < n_tokens; t++) {
        const __m512 xt = load_f32(x + (size_t)t * n_cols, i, mask);
        for (int r = 0; r < ROWS; r++) {
            acc[r][t] = _mm512_fmadd_ps(w[r], xt, acc[r][t]);
        }
    }
}

INLINE void multiply_tile(float *y, size_t y_stride, const void *const row[ROWS], int n_rows,
                          const float *x, int n_tokens, int n_cols, load_fn *load) {
    __m512 acc[ROWS][TILE];
    for (int r = 0; r < ROWS; r++) {
        for (int t = 0; t < n_tokens; t++) {
            acc[r][t] = _mm512_setzero_ps();
        }
    }
    int i = 0;
    for (; i + LANES <= n_cols; i += LANES) {
        add_columns(acc, row, x, i, 0xffff, n_tokens, n_cols, load);
    }
    if (i < n_cols) {
        add_columns(acc, row, x, i, first_lanes(n_cols - i), n_tokens, n_cols, load);
    }
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
                          const float *x, int n_tokens, int n_cols, load_fn *load) {
    for (int r = 0; r < n_rows; r += ROWS) {
        const void *row[ROWS];
        for (int i = 0; i < ROWS; i++) {
            row[i] = (const char *)w + min_int(r + i, n_rows - 1) * w_row_bytes;
        }
        const int n = min_int(ROWS, n_rows - r);
        int t = 0;
        for (; t + TILE <= n_tokens; t += TILE) {
            multiply_tile(y + t * y_stride + r, y_stride, row, n, x + (size_t)t * n_cols, TILE,
                          n_cols, load);
        }
        for (; t < n_tokens; t++) {
            multiply_tile(y + t * y_stride + r, y_stride, row, n, x + (size_t)t * n_cols, 1, n_cols,
                          load);
        }
    }
}

#define DEFINE_MATMUL(type)                                                                        \
    static void matmul_##type(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols,              \
                              void *work) {                                                        \
        (void)work;                                                                                \
        matmul_floats(y, y_stride, w, w_row_bytes, n_rows, x->f32, n_tokens, n_cols, load_##type); \
    }

DEFINE_MATMUL(f32)
DEFINE_MATMUL(f16)
DEFINE_MATMUL(bf16)

void ce_avx512vnni_matmul_floats(ce_kernels *k) {
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_F32, f32, NULL);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_F16, f16, NULL);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_BF16, bf16, NULL);
}
