/* AVX2 matmuls of the block types.
 *
 * The order of accumulation, the same in both phases: lanes are rows, and for blocks b of 32
 * columns in ascending order, starting from acc = 0,
 *     acc = fma(float(isum[b]), w_scale[b] * x_scale[b], acc)
 *     acc = fma(-w_min[b], x_scale[b] * float(x_sum[b]), acc)      (types with a min)
 * where isum[b] is the exact integer sum of w_q * x_q over the block, and x_sum[b] that of x_q,
 * with integer scales of 16 columns as factors inside (mult, min_mult). Two paths find the
 * integers: stream: for one token: integers row by row, transposed at the end of a block; the
 * weights are read once and not stored; panel:  for more: the quants of eight rows are unpacked
 * once to bytes, four columns of each row side by side, and swept with tokens. Rows beyond the last
 * repeat it, and are not stored. */
#include "avx2.h"
#include "avx2_blocks.h"
#include "avx2_blocks_iq.h"
#include "overlay.h"

enum {
    TILE = 4,  /* tokens swept together */
    BATCH = 64 /* tokens per unpacking of the weights */
};

static inline int min_int(int a, int b) { return a < b ? a : b; }

/* ---- Integers ---- */

/* Sums of two products, in int16: w is unsigned, or |w| is and x takes its sign. -128 is fine: x is
 * at least -127, and 2 * 128 * 127 < 2^15. */
INLINE __m256i multiply(const block_format *f, __m256i w, __m256i x) {
    return f->is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                        : _mm256_maddubs_epi16(w, x);
}

INLINE __m256i add_pairs(__m256i v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }

/* In each half: [a0 + a2, b0 + b2, a1 + a3, b1 + b3], and then [a, b, c, d] in full. */
INLINE __m256i merge_32(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}

INLINE __m256i merge_64(__m256i ab, __m256i cd) {
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

/* Sums of the low and of the high half of each of eight vectors; lane i belongs to v[i]. */
INLINE void sum_halves(__m256i half[2], const __m256i v[ROWS]) {
    const __m256i low = merge_64(merge_32(v[0], v[1]), merge_32(v[2], v[3]));
    const __m256i high = merge_64(merge_32(v[4], v[5]), merge_32(v[6], v[7]));
    half[0] = _mm256_permute2x128_si256(low, high, 0x20);
    half[1] = _mm256_permute2x128_si256(low, high, 0x31);
}

/* The sum of each 16 columns of a span: [b / 4][h][b % 4] for half h of block b. */
typedef int32_t span_sums[2][2][4];

INLINE void find_sums(span_sums sums, const int8_t *q) {
    for (int k = 0; k < 2; k++) {
        __m256i four[4]; /* sums of four columns, a block in each */
        for (int b = 0; b < 4; b++) {
            const __m256i block = load_256(q + (4 * k + b) * CE_QK);
            four[b] = add_pairs(_mm256_maddubs_epi16(_mm256_set1_epi8(1), block));
        }
        const __m256i all = merge_64(merge_32(four[0], four[1]), merge_32(four[2], four[3]));
        _mm256_storeu_si256((__m256i *)sums[k], all);
    }
}

/* The sum of half h of block b. */
INLINE int32_t sum_of_half(const span_sums sums, int b, int h) { return sums[b / 4][h][b % 4]; }

/* ---- Floats: the one place where blocks are accumulated ---- */

/* half[0] * mult[0] + half[1] * mult[1]. Every product and the sum are below 2^24: exact. */
INLINE __m256 weighted(const __m256i half[2], const float mult[2][ROWS]) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(half[0]), _mm256_loadu_ps(mult[0]),
                           _mm256_mul_ps(_mm256_cvtepi32_ps(half[1]), _mm256_loadu_ps(mult[1])));
}

/* x_sums is read only if the type has a min_mult, else x_sum. */
INLINE __m256 accumulate(const block_format *f, __m256 acc, const __m256i half[2],
                         const row_scales *s, int b, float x_scale, int32_t x_sum,
                         const span_sums x_sums) {
    const __m256 isum = f->has_mult ? weighted(half, s->mult[b])
                                    : _mm256_cvtepi32_ps(_mm256_add_epi32(half[0], half[1]));
    const __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(s->scale[b]), _mm256_set1_ps(x_scale));
    acc = _mm256_fmadd_ps(isum, scale, acc);
    if (f->has_min_mult) {
        const __m256i x[2] = {_mm256_set1_epi32(sum_of_half(x_sums, b, 0)),
                              _mm256_set1_epi32(sum_of_half(x_sums, b, 1))};
        const __m256 sum = _mm256_mul_ps(_mm256_set1_ps(x_scale), weighted(x, s->min_mult[b]));
        acc = _mm256_fnmadd_ps(_mm256_loadu_ps(s->min[b]), sum, acc);
    } else if (f->has_min) {
        const __m256 sum = _mm256_set1_ps(x_scale * (float)x_sum);
        acc = _mm256_fnmadd_ps(_mm256_loadu_ps(s->min[b]), sum, acc);
    }
    return acc;
}

/* ---- Rows ---- */

/* Eight rows from r on, at the present span; rows beyond the last are the last. */
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

INLINE __m256i quants_at(const block_format *f, const uint8_t *row, int b) {
    return f->quants(row + b / f->sub_blocks * f->block_bytes, b % f->sub_blocks);
}

INLINE void store_rows(float *y, __m256 acc, int n_rows) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(y, _mm256_cmpgt_epi32(_mm256_set1_epi32(n_rows), lane), acc);
}

/* ---- Stream ---- */

INLINE __m256 stream_rows(const block_format *f, const uint8_t *row[ROWS], const ce_acts *x,
                          int n_blocks) {
    __m256 acc = _mm256_setzero_ps();
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
            const __m256i xq = load_256(x->q + at * CE_QK);
            const __m256i excess =
                add_pairs(_mm256_maddubs_epi16(_mm256_set1_epi8((char)f->offset), xq));
            __m256i sums[ROWS], half[2];
            for (int i = 0; i < ROWS; i++) {
                sums[i] = add_pairs(multiply(f, quants_at(f, row[i], b), xq));
                sums[i] = f->offset != 0 ? _mm256_sub_epi32(sums[i], excess) : sums[i];
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

/* A span of eight rows: quants[b][g] is columns 4 g ... 4 g + 3 of block b, row by row. */
typedef struct {
    __m256i quants[SPAN][GROUPS];
    row_scales scales;
} panel;

/* out[g] lane i = lane g of v[i]. */
INLINE void transpose(__m256i out[GROUPS], const __m256i v[ROWS]) {
    __m256i quad[2][4]; /* of rows 4 k ... 4 k + 3: lanes g in the low half, 4 + g in the high */
    for (int k = 0; k < 2; k++) {
        const __m256i low01 = _mm256_unpacklo_epi32(v[4 * k], v[4 * k + 1]);
        const __m256i high01 = _mm256_unpackhi_epi32(v[4 * k], v[4 * k + 1]);
        const __m256i low23 = _mm256_unpacklo_epi32(v[4 * k + 2], v[4 * k + 3]);
        const __m256i high23 = _mm256_unpackhi_epi32(v[4 * k + 2], v[4 * k + 3]);
        quad[k][0] = _mm256_unpacklo_epi64(low01, low23);
        quad[k][1] = _mm256_unpackhi_epi64(low01, low23);
        quad[k][2] = _mm256_unpacklo_epi64(high01, high23);
        quad[k][3] = _mm256_unpackhi_epi64(high01, high23);
    }
    for (int g = 0; g < 4; g++) {
        out[g] = _mm256_permute2x128_si256(quad[0][g], quad[1][g], 0x20);
        out[4 + g] = _mm256_permute2x128_si256(quad[0][g], quad[1][g], 0x31);
    }
}

INLINE void unpack_panel(panel *p, const block_format *f, const uint8_t *const row[ROWS], int n) {
    f->scales(&p->scales, row, n);
    for (int b = 0; b < n; b++) {
        __m256i v[ROWS];
        for (int i = 0; i < ROWS; i++) {
            v[i] = quants_at(f, row[i], b);
        }
        transpose(p->quants[b], v);
    }
}

INLINE __m256i broadcast_4(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm256_set1_epi32(v);
}

/* isum[t][h] += the products of groups [g0, g1) with token t, whose block is at q + t * q_stride.
 * As many sums of pairs are added in int16 as can never overflow. */
INLINE void add_products(__m256i isum[][2], int h, const block_format *f, const __m256i w[GROUPS],
                         int g0, int g1, const int8_t *q, size_t q_stride, int n_tokens) {
    const int fit = 32767 / (2 * 127 * f->max_quant);
    for (int g = g0; g < g1; g += fit) {
        __m256i pairs[TILE];
        for (int t = 0; t < n_tokens; t++) {
            pairs[t] = multiply(f, w[g], broadcast_4(q + t * q_stride + 4 * g));
        }
        for (int k = g + 1; k < g1 && k < g + fit; k++) {
            for (int t = 0; t < n_tokens; t++) {
                const __m256i product = multiply(f, w[k], broadcast_4(q + t * q_stride + 4 * k));
                pairs[t] = _mm256_add_epi16(pairs[t], product);
            }
        }
        for (int t = 0; t < n_tokens; t++) {
            isum[t][h] = _mm256_add_epi32(isum[t][h], add_pairs(pairs[t]));
        }
    }
}

/* Adds the panel's n blocks times the activations, from the first token's block `at` on. */
INLINE void sweep(__m256 acc[], const block_format *f, const panel *p, int n, const ce_acts *x,
                  size_t at, size_t n_blocks, int n_tokens) {
    span_sums x_sums[TILE];
    for (int t = 0; t < n_tokens && f->has_mult; t++) {
        find_sums(x_sums[t], x->q + (at + t * n_blocks) * CE_QK);
    }
    for (int b = 0; b < n; b++, at++) {
        __m256i half[TILE][2];
        for (int t = 0; t < n_tokens; t++) {
            if (f->has_mult) {
                half[t][0] = _mm256_set1_epi32(-f->offset * sum_of_half(x_sums[t], b, 0));
                half[t][1] = _mm256_set1_epi32(-f->offset * sum_of_half(x_sums[t], b, 1));
            } else {
                half[t][0] = _mm256_set1_epi32(-f->offset * x->sum[at + t * n_blocks]);
                half[t][1] = _mm256_setzero_si256();
            }
        }
        const int8_t *q = x->q + at * CE_QK;
        if (f->has_mult) {
            add_products(half, 0, f, p->quants[b], 0, GROUPS / 2, q, n_blocks * CE_QK, n_tokens);
            add_products(half, 1, f, p->quants[b], GROUPS / 2, GROUPS, q, n_blocks * CE_QK,
                         n_tokens);
        } else {
            add_products(half, 0, f, p->quants[b], 0, GROUPS, q, n_blocks * CE_QK, n_tokens);
        }
        for (int t = 0; t < n_tokens; t++) {
            const size_t i = at + t * n_blocks;
            acc[t] =
                accumulate(f, acc[t], half[t], &p->scales, b, x->scale[i], x->sum[i], x_sums[t]);
        }
    }
}

/* Eight rows times n_tokens (at most BATCH) tokens from t0 on. */
INLINE void panel_rows(__m256 acc[BATCH], const block_format *f, const uint8_t *row[ROWS],
                       const ce_acts *x, int t0, int n_tokens, int n_blocks) {
    for (int t = 0; t < n_tokens; t++) {
        acc[t] = _mm256_setzero_ps();
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
            __m256 acc[BATCH];
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

void ce_avx2_matmul(ce_kernels *k) {
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q4_0, q4_0);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q4_1, q4_1);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q5_0, q5_0);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q5_1, q5_1);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q8_0, q8_0);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q2_K, q2_K);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q3_K, q3_K);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q4_K, q4_K);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q5_K, q5_K);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_Q6_K, q6_K);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ4_NL, iq4_nl);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ4_XS, iq4_xs);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ3_XXS, iq3_xxs);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ3_S, iq3_s);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ2_XXS, iq2_xxs);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ2_XS, iq2_xs);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ2_S, iq2_s);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ1_S, iq1_s);
    OVERLAY_MATMUL(k, "avx2", CE_TYPE_IQ1_M, iq1_m);
}
