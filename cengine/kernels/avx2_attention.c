/* AVX2 attention: the tiles and the online softmax of generic_attention.c, with up to four query
 * heads at once, so that a key or value is loaded once for all of them.
 *
 * The order of accumulation, for each head on its own: a score sums over eight lanes of head_dim
 * and then over the lanes; a tile's weights sum likewise; out[i] sums over positions, ascending. */
#include "avx2.h"
#include "avx2_load.h"

#include <float.h>
#include <math.h>

enum { HEADS = 4 };

static inline int min_int(int a, int b) { return a < b ? a : b; }

/* One call's constant arguments. */
typedef struct {
    const char *k, *v;
    size_t kv_stride;
    int head_dim;
    float scale;
} kv_cache;

/* The scores of position p with n_heads heads. */
INLINE void score_position(float score[HEADS][CE_ATTN_TILE], int at, const float *q,
                           const kv_cache *kv, int p, int n_heads, load_fn *load,
                           load_tail_fn *load_tail) {
    const char *key = kv->k + p * kv->kv_stride;
    __m256 dot[HEADS];
    for (int h = 0; h < HEADS; h++) {
        dot[h] = _mm256_setzero_ps();
    }
    int i = 0;
    for (; i + LANES <= kv->head_dim; i += LANES) {
        const __m256 lanes = load(key, i);
        for (int h = 0; h < n_heads; h++) {
            dot[h] = _mm256_fmadd_ps(load_f32(q + (size_t)h * kv->head_dim, i), lanes, dot[h]);
        }
    }
    if (i < kv->head_dim) {
        const int n = kv->head_dim - i;
        const __m256 lanes = load_tail(key, i, n);
        for (int h = 0; h < n_heads; h++) {
            const __m256 qh = load_tail_f32(q + (size_t)h * kv->head_dim, i, n);
            dot[h] = _mm256_fmadd_ps(qh, lanes, dot[h]);
        }
    }
    float sums[HEADS];
    _mm_storeu_ps(sums, _mm_mul_ps(sum_lanes_of_4(dot), _mm_set1_ps(kv->scale)));
    for (int h = 0; h < n_heads; h++) {
        score[h][at] = sums[h];
    }
}

typedef struct {
    float max;
    float sum;
} softmax;

/* Scores to weights, as softmax_tile in generic_attention.c; beyond n the scores are -infinity, and
 * add nothing. */
INLINE float softmax_tile(softmax *s, float score[CE_ATTN_TILE], int n) {
    for (int i = n; i % LANES != 0; i++) {
        score[i] = -INFINITY;
    }
    __m256 max = _mm256_set1_ps(s->max), sum = _mm256_setzero_ps();
    for (int i = 0; i < n; i += LANES) {
        max = _mm256_max_ps(_mm256_loadu_ps(score + i), max);
    }
    const float old_max = s->max;
    s->max = max_lanes(max);
    for (int i = 0; i < n; i += LANES) {
        const __m256 x = _mm256_sub_ps(_mm256_loadu_ps(score + i), _mm256_set1_ps(s->max));
        const __m256 weight = exp_lanes(x);
        _mm256_storeu_ps(score + i, weight);
        sum = _mm256_add_ps(sum, weight);
    }
    const __m256 shrink = exp_lanes(_mm256_set1_ps(old_max - s->max));
    s->sum = s->sum * _mm256_cvtss_f32(shrink) + sum_lanes(sum);
    return _mm256_cvtss_f32(shrink);
}

/* out[i ... i + 7] of each head: out * shrink + the sum of weight * value. */
INLINE void add_values(__m256 acc[HEADS], const float weight[HEADS][CE_ATTN_TILE],
                       const float shrink[HEADS], int n, int n_heads, const kv_cache *kv, int p0,
                       int i, int n_tail, load_fn *load, load_tail_fn *load_tail) {
    for (int h = 0; h < n_heads; h++) {
        acc[h] = _mm256_mul_ps(acc[h], _mm256_set1_ps(shrink[h]));
    }
    for (int p = 0; p < n; p++) {
        const char *value = kv->v + (p0 + p) * kv->kv_stride;
        const __m256 lanes = n_tail == 0 ? load(value, i) : load_tail(value, i, n_tail);
        for (int h = 0; h < n_heads; h++) {
            acc[h] = _mm256_fmadd_ps(_mm256_set1_ps(weight[h][p]), lanes, acc[h]);
        }
    }
}

INLINE void add_tile(float *out, const float weight[HEADS][CE_ATTN_TILE], const float shrink[HEADS],
                     int n, int n_heads, const kv_cache *kv, int p0, load_fn *load,
                     load_tail_fn *load_tail) {
    const int n_tail = kv->head_dim % LANES, n_whole = kv->head_dim - n_tail;
    __m256 acc[HEADS];
    for (int i = 0; i < n_whole; i += LANES) {
        for (int h = 0; h < n_heads; h++) {
            acc[h] = _mm256_loadu_ps(out + (size_t)h * kv->head_dim + i);
        }
        add_values(acc, weight, shrink, n, n_heads, kv, p0, i, 0, load, load_tail);
        for (int h = 0; h < n_heads; h++) {
            _mm256_storeu_ps(out + (size_t)h * kv->head_dim + i, acc[h]);
        }
    }
    if (n_tail > 0) {
        for (int h = 0; h < n_heads; h++) {
            acc[h] = load_tail_f32(out + (size_t)h * kv->head_dim, n_whole, n_tail);
        }
        add_values(acc, weight, shrink, n, n_heads, kv, p0, n_whole, n_tail, load, load_tail);
        for (int h = 0; h < n_heads; h++) {
            _mm256_maskstore_ps(out + (size_t)h * kv->head_dim + n_whole, first_lanes(n_tail),
                                acc[h]);
        }
    }
}

INLINE void attend_heads(float *out, const float *q, const kv_cache *kv, int begin, int end,
                         int n_heads, load_fn *load, load_tail_fn *load_tail) {
    softmax s[HEADS];
    for (int h = 0; h < n_heads; h++) {
        s[h] = (softmax){.max = -FLT_MAX, .sum = 0.0f};
    }
    memset(out, 0, (size_t)n_heads * kv->head_dim * sizeof *out);
    for (int p0 = begin; p0 < end;) {
        const int p1 = min_int(end, (p0 / CE_ATTN_TILE + 1) * CE_ATTN_TILE);
        float score[HEADS][CE_ATTN_TILE], shrink[HEADS];
        for (int p = p0; p < p1; p++) {
            score_position(score, p - p0, q, kv, p, n_heads, load, load_tail);
        }
        for (int h = 0; h < n_heads; h++) {
            shrink[h] = softmax_tile(&s[h], score[h], p1 - p0);
        }
        add_tile(out, score, shrink, p1 - p0, n_heads, kv, p0, load, load_tail);
        p0 = p1;
    }
    for (int h = 0; h < n_heads; h++) {
        for (int i = 0; i < kv->head_dim; i++) {
            out[(size_t)h * kv->head_dim + i] /= s[h].sum;
        }
    }
}

#define DEFINE_ATTEND(type)                                                                        \
    static void attend_##type(float *out, const float *q, const void *k, const void *v,            \
                              size_t kv_stride, int begin, int end, int n_q, int head_dim,         \
                              float scale) {                                                       \
        const kv_cache kv = {k, v, kv_stride, head_dim, scale};                                    \
        int h = 0;                                                                                 \
        for (; h + HEADS <= n_q; h += HEADS) {                                                     \
            attend_heads(out + (size_t)h * head_dim, q + (size_t)h * head_dim, &kv, begin, end,    \
                         HEADS, load_##type, load_tail_##type);                                    \
        }                                                                                          \
        for (; h < n_q; h++) {                                                                     \
            attend_heads(out + (size_t)h * head_dim, q + (size_t)h * head_dim, &kv, begin, end, 1, \
                         load_##type, load_tail_##type);                                           \
        }                                                                                          \
    }

DEFINE_ATTEND(f16)
DEFINE_ATTEND(f32)

void ce_avx2_attention(ce_kernels *k) {
    k->attend_f16 = attend_f16;
    k->attend_f32 = attend_f32;
}
