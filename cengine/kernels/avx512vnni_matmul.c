/* AVX-512 VNNI matmuls of the block types.
 *
 * The order of accumulation, the same in both phases: lanes are rows, and for blocks b of 32
 * columns in ascending order, starting from acc = 0,
 *     acc = fma(float(isum[b]), w_scale[b] * x_scale[b], acc)
 *     acc = fma(-w_min[b], x_scale[b] * float(x_sum[b]), acc)      (types with a min)
 * where isum[b] is the exact integer sum of w_q * x_q over the block, and x_sum[b] that of x_q,
 * with integer scales of 16 columns as factors inside (mult, min_mult). (It is the order of the
 * AVX2 tier.) Two paths find the integers: stream: for one token: integers row by row, transposed
 * at the end of a block; the weights are read once and not stored; panel:  for more: the quants of
 * sixteen rows are unpacked once to bytes, four columns of each row side by side, and swept with
 * tokens. vpdpbusd multiplies unsigned weights (q + offset) by signed activations; its sums start
 * at -offset * sum(x). Rows beyond the last repeat it, and are not stored. */
#include "avx512vnni.h"
#include "avx512vnni_blocks.h"
#include "avx512vnni_blocks_iq.h"
#include "overlay.h"

enum {
    TILE = 4,  /* tokens swept together */
    BATCH = 64 /* tokens per unpacking of the weights */
};

static inline int min_int(int a, int b) { return a < b ? a : b; }

/* ---- Integers ---- */

/* In each quarter: [a0 + a2, b0 + b2, a1 + a3, b1 + b3], and then [a, b, c, d] in full. */
INLINE __m512i merge_32(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

INLINE __m512i merge_64(__m512i ab, __m512i cd) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* Quarters 0 and 2 (even) or 1 and 3 (odd) of a, then of b. */
INLINE __m512i even_quarters(__m512i a, __m512i b) {
    return _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(2, 0, 2, 0));
}

INLINE __m512i odd_quarters(__m512i a, __m512i b) {
    return _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(3, 1, 3, 1));
}

enum { PAIRS = ROWS / 2 };

/* The rows in the two halves of vector k: (0, 4) (1, 5) (2, 6) (3, 7) (8, 12) (9, 13) (10, 14)
 * (11, 15), so that rows come out of the shuffles below in order. */
INLINE int first_of_pair(int k) { return k < 4 ? k : k + 4; }
INLINE int second_of_pair(int k) { return first_of_pair(k) + 4; }

/* Sums of columns 0 ... 15 and of columns 16 ... 31; lane i belongs to row i. */
INLINE void sum_halves(__m512i half[2], const __m512i v[PAIRS]) {
    const __m512i low = merge_64(merge_32(v[0], v[1]), merge_32(v[2], v[3]));
    const __m512i high = merge_64(merge_32(v[4], v[5]), merge_32(v[6], v[7]));
    half[0] = even_quarters(low, high);
    half[1] = odd_quarters(low, high);
}

/* The sum of each 16 columns of a span: [k % 4][k / 4] for columns 16 k and on. */
typedef int32_t span_sums[4][4];

INLINE void find_sums(span_sums sums, const int8_t *q) {
    __m512i four[4]; /* sums of four columns */
    for (int i = 0; i < 4; i++) {
        four[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1),
                                      _mm512_loadu_si512(q + 64 * i));
    }
    _mm512_storeu_si512(sums, merge_64(merge_32(four[0], four[1]), merge_32(four[2], four[3])));
}

/* The sum of half h of block b. */
INLINE int32_t sum_of_half(const span_sums sums, int b, int h) {
    return sums[(2 * b + h) % 4][(2 * b + h) / 4];
}

/* ---- Floats: the one place where blocks are accumulated ---- */

/* half[0] * mult[0] + half[1] * mult[1]. Every product and the sum are below 2^24: exact. */
INLINE __m512 weighted(const __m512i half[2], const float mult[2][ROWS]) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(half[0]), _mm512_loadu_ps(mult[0]),
                           _mm512_mul_ps(_mm512_cvtepi32_ps(half[1]), _mm512_loadu_ps(mult[1])));
}

/* x_sums is read only if the type has a min_mult, else x_sum. */
INLINE __m512 accumulate(const block_format *f, __m512 acc, const __m512i half[2],
                         const row_scales *s, int b, float x_scale, int32_t x_sum,
                         const span_sums x_sums) {
    const __m512 isum = f->has_mult ? weighted(half, s->mult[b])
                                    : _mm512_cvtepi32_ps(_mm512_add_epi32(half[0], half[1]));
    const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(s->scale[b]), _mm512_set1_ps(x_scale));
    acc = _mm512_fmadd_ps(isum, scale, acc);
    if (f->has_min_mult) {
        const __m512i x[2] = {_mm512_set1_epi32(sum_of_half(x_sums, b, 0)),
                              _mm512_set1_epi32(sum_of_half(x_sums, b, 1))};
        const __m512 sum = _mm512_mul_ps(_mm512_set1_ps(x_scale), weighted(x, s->min_mult[b]));
        acc = _mm512_fnmadd_ps(_mm512_loadu_ps(s->min[b]), sum, acc);
    } else if (f->has_min) {
        const __m512 sum = _mm512_set1_ps(x_scale * (float)x_sum);
        acc = _mm512_fnmadd_ps(_mm512_loadu_ps(s->min[b]), sum, acc);
    }
    return acc;
}

/* ---- Rows ---- */

/* Sixteen rows from r on, at the present span; rows beyond the last are the last. */
INLINE void point_at_rows(const uint8_t *row[ROWS], const void *w, size_t row_bytes, int r,
                          int n_rows) {
    for (int i = 0; i < ROWS; i++) {
        row[i] = (const uint8_t *)w + min_int(r + i, n_rows - 1) * row_bytes;
    }
}

INLINE void advance_rows(const uint8_t *row[ROWS], const block_format *f) {
    for (int i = 0; i < ROWS; i++) {
        row[i] += SPAN / f->sub_blocks * f->block_bytes;
    }
}

/* Pair k's quants of block b of the span. */
INLINE __m512i quants_at(const block_format *f, const uint8_t *const row[ROWS], int k, int b) {
    const size_t at = b / f->sub_blocks * f->block_bytes;
    return f->quants(row[first_of_pair(k)] + at, row[second_of_pair(k)] + at, b % f->sub_blocks);
}

INLINE void store_rows(float *y, __m512 acc, int n_rows) {
    const __mmask16 mask = n_rows >= ROWS ? 0xffff : (__mmask16)((1 << n_rows) - 1);
    _mm512_mask_storeu_ps(y, mask, acc);
}

/* ---- Stream ---- */

INLINE __m512 stream_rows(const block_format *f, const uint8_t *row[ROWS], const ce_acts *x,
                          int n_blocks) {
    __m512 acc = _mm512_setzero_ps();
    for (int b0 = 0; b0 < n_blocks; b0 += SPAN) {
        const int n = f->sub_blocks == SPAN ? SPAN : min_int(SPAN, n_blocks - b0);
        row_scales s;
        f->scales(&s, row, n);
        span_sums x_sums;
        if (f->has_min_mult) {
            find_sums(x_sums, x->q + b0 * CE_QK);
        }
        for (int b = 0; b < n; b++) {
            const int at = b0 + b;
            const __m512i xq =
                _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(x->q + at * CE_QK)));
            const __m512i zero = _mm512_setzero_si512();
            const __m512i excess = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8((char)f->offset), xq);
            const __m512i start = f->offset != 0 ? _mm512_sub_epi32(zero, excess) : zero;
            __m512i sums[PAIRS], half[2];
            for (int k = 0; k < PAIRS; k++) {
                sums[k] = _mm512_dpbusd_epi32(start, quants_at(f, row, k, b), xq);
            }
            sum_halves(half, sums);
            acc = accumulate(f, acc, half, &s, b, x->scale[at], x->sum[at], x_sums);
        }
        advance_rows(row, f);
    }
    return acc;
}

INLINE void matmul_stream(const block_format *f, float *y, const void *w, size_t w_row_bytes,
                          int n_rows, const ce_acts *x, int n_cols) {
    for (int r = 0; r < n_rows; r += ROWS) {
        const uint8_t *row[ROWS];
        point_at_rows(row, w, w_row_bytes, r, n_rows);
        store_rows(y + r, stream_rows(f, row, x, n_cols / CE_QK), n_rows - r);
    }
}

/* ---- Panel ---- */

enum { GROUPS = CE_QK / 4 }; /* of four columns, in a block */

/* A span of sixteen rows: quants[b][g] is columns 4 g ... 4 g + 3 of block b, row by row. */
typedef struct {
    __m512i quants[SPAN][GROUPS];
    row_scales scales;
} panel;

/* out[g] lane i = the g-th four columns of row i. */
INLINE void transpose(__m512i out[GROUPS], const __m512i v[PAIRS]) {
    __m512i quad[2][4]; /* group g of rows 8 k + 0 ... 3 in quarter 0, group 4 + g in quarter 1;
                           then the same of rows 8 k + 4 ... 7 */
    for (int k = 0; k < 2; k++) {
        const __m512i low01 = _mm512_unpacklo_epi32(v[4 * k], v[4 * k + 1]);
        const __m512i high01 = _mm512_unpackhi_epi32(v[4 * k], v[4 * k + 1]);
        const __m512i low23 = _mm512_unpacklo_epi32(v[4 * k + 2], v[4 * k + 3]);
        const __m512i high23 = _mm512_unpackhi_epi32(v[4 * k + 2], v[4 * k + 3]);
        quad[k][0] = _mm512_unpacklo_epi64(low01, low23);
        quad[k][1] = _mm512_unpackhi_epi64(low01, low23);
        quad[k][2] = _mm512_unpacklo_epi64(high01, high23);
        quad[k][3] = _mm512_unpackhi_epi64(high01, high23);
    }
    for (int g = 0; g < 4; g++) {
        out[g] = even_quarters(quad[0][g], quad[1][g]);
        out[4 + g] = odd_quarters(quad[0][g], quad[1][g]);
    }
}

INLINE void unpack_panel(panel *p, const block_format *f, const uint8_t *const row[ROWS], int n) {
    f->scales(&p->scales, row, n);
    for (int b = 0; b < n; b++) {
        __m512i v[PAIRS];
        for (int k = 0; k < PAIRS; k++) {
            v[k] = quants_at(f, row, k, b);
        }
        transpose(p->quants[b], v);
    }
}

INLINE __m512i broadcast_4(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

/* isum[t][h] += the products of groups [g0, g1) with token t's block, at q + t * q_stride. */
INLINE void add_products(__m512i isum[][2], int h, const __m512i w[GROUPS], int g0, int g1,
                         const int8_t *q, size_t q_stride, int n_tokens) {
    for (int g = g0; g < g1; g++) {
        for (int t = 0; t < n_tokens; t++) {
            isum[t][h] =
                _mm512_dpbusd_epi32(isum[t][h], w[g], broadcast_4(q + t * q_stride + 4 * g));
        }
    }
}

/* Adds the panel's n blocks times the activations, from the first token's block `at` on. */
INLINE void sweep(__m512 acc[], const block_format *f, const panel *p, int n, const ce_acts *x,
                  size_t at, size_t n_blocks, int n_tokens) {
    span_sums x_sums[TILE];
    for (int t = 0; t < n_tokens && f->has_mult; t++) {
        find_sums(x_sums[t], x->q + (at + t * n_blocks) * CE_QK);
    }
    for (int b = 0; b < n; b++, at++) {
        __m512i half[TILE][2];
        for (int t = 0; t < n_tokens; t++) {
            if (f->has_mult) {
                half[t][0] = _mm512_set1_epi32(-f->offset * sum_of_half(x_sums[t], b, 0));
                half[t][1] = _mm512_set1_epi32(-f->offset * sum_of_half(x_sums[t], b, 1));
            } else {
                half[t][0] = _mm512_set1_epi32(-f->offset * x->sum[at + t * n_blocks]);
                half[t][1] = _mm512_setzero_si512();
            }
        }
        const int8_t *q = x->q + at * CE_QK;
        if (f->has_mult) {
            add_products(half, 0, p->quants[b], 0, GROUPS / 2, q, n_blocks * CE_QK, n_tokens);
            add_products(half, 1, p->quants[b], GROUPS / 2, GROUPS, q, n_blocks * CE_QK, n_tokens);
        } else {
            add_products(half, 0, p->quants[b], 0, GROUPS, q, n_blocks * CE_QK, n_tokens);
        }
        for (int t = 0; t < n_tokens; t++) {
            const size_t i = at + t * n_blocks;
            acc[t] =
                accumulate(f, acc[t], half[t], &p->scales, b, x->scale[i], x->sum[i], x_sums[t]);
        }
    }
}

/* Sixteen rows times n_tokens (at most BATCH) tokens from t0 on. */
INLINE void panel_rows(__m512 acc[BATCH], const block_format *f, const uint8_t *row[ROWS],
                       const ce_acts *x, int t0, int n_tokens, int n_blocks) {
    for (int t = 0; t < n_tokens; t++) {
        acc[t] = _mm512_setzero_ps();
    }
    for (int b0 = 0; b0 < n_blocks; b0 += SPAN) {
        const int n = f->sub_blocks == SPAN ? SPAN : min_int(SPAN, n_blocks - b0);
        panel p;
        unpack_panel(&p, f, row, n);
        int t = 0;
        for (; t + TILE <= n_tokens; t += TILE) {
            sweep(acc + t, f, &p, n, x, (size_t)(t0 + t) * n_blocks + b0, n_blocks, TILE);
        }
        for (; t < n_tokens; t++) {
            sweep(acc + t, f, &p, n, x, (size_t)(t0 + t) * n_blocks + b0, n_blocks, 1);
        }
        advance_rows(row, f);
    }
}

INLINE void matmul_panels(const block_format *f, float *y, size_t y_stride, const void *w,
                          size_t w_row_bytes, int n_rows, const ce_acts *x, int n_tokens,
                          int n_cols) {
    for (int t0 = 0; t0 < n_tokens; t0 += BATCH) {
        const int n = min_int(BATCH, n_tokens - t0);
        for (int r = 0; r < n_rows; r += ROWS) {
            const uint8_t *row[ROWS];
            __m512 acc[BATCH];
            point_at_rows(row, w, w_row_bytes, r, n_rows);
            panel_rows(acc, f, row, x, t0, n, n_cols / CE_QK);
            for (int t = 0; t < n; t++) {
                store_rows(y + (t0 + t) * y_stride + r, acc[t], n_rows - r);
            }
        }
    }
}

/* ---- The kernels ---- */

#define DEFINE_MATMUL(type)                                                                        \
    static void matmul_##type(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols) {            \
        const block_format *f = &format_##type;                                                    \
        if (n_tokens == 1) {                                                                       \
            matmul_stream(f, y, w, w_row_bytes, n_rows, x, n_cols);                                \
        } else {                                                                                   \
            matmul_panels(f, y, y_stride, w, w_row_bytes, n_rows, x, n_tokens, n_cols);            \
        }                                                                                          \
    }

DEFINE_MATMUL(q4_0)
DEFINE_MATMUL(q4_1)
DEFINE_MATMUL(q5_0)
DEFINE_MATMUL(q5_1)
DEFINE_MATMUL(q8_0)
DEFINE_MATMUL(q2_K)
DEFINE_MATMUL(q3_K)
DEFINE_MATMUL(q4_K)
DEFINE_MATMUL(q5_K)
DEFINE_MATMUL(q6_K)
DEFINE_MATMUL(iq4_nl)
DEFINE_MATMUL(iq4_xs)
DEFINE_MATMUL(iq3_xxs)
DEFINE_MATMUL(iq3_s)
DEFINE_MATMUL(iq2_xxs)
DEFINE_MATMUL(iq2_xs)
DEFINE_MATMUL(iq2_s)
DEFINE_MATMUL(iq1_s)
DEFINE_MATMUL(iq1_m)

void ce_avx512vnni_matmul(ce_kernels *k) {
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q4_0, q4_0);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q4_1, q4_1);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q5_0, q5_0);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q5_1, q5_1);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q8_0, q8_0);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q2_K, q2_K);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q3_K, q3_K);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q4_K, q4_K);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q5_K, q5_K);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_Q6_K, q6_K);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ4_NL, iq4_nl);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ4_XS, iq4_xs);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ3_XXS, iq3_xxs);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ3_S, iq3_s);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ2_XXS, iq2_xxs);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ2_XS, iq2_xs);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ2_S, iq2_s);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ1_S, iq1_s);
    OVERLAY_MATMUL(k, "avx512vnni", CE_TYPE_IQ1_M, iq1_m);
}
