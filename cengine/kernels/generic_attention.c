/* Attention over a KV cache with an online softmax (arXiv:1805.02867, arXiv:2205.14135), one tile
 * of positions at a time. Within a tile every sum runs in the order of positions. */
#include "generic.h"
#include "generic_half.h"
#include "inline.h"

#include <float.h>
#include <math.h>

typedef float load_fn(const void *row, int64_t i);

static inline int min_int(int a, int b) { return a < b ? a : b; }

/* The softmax so far: the weights that went into out[] are exp(score - max), and sum to sum. */
typedef struct {
    float max;
    float sum;
} softmax;

/* weight[i] = exp(score[i] - max) with the maximum taken over all tiles so far. Returns the factor
 * that brings earlier tiles to that maximum. */
static float softmax_tile(softmax *s, float *score, int n) {
    const float old_max = s->max;
    for (int i = 0; i < n; i++) {
        s->max = score[i] > s->max ? score[i] : s->max;
    }
    const float shrink = expf(old_max - s->max);
    s->sum *= shrink;
    for (int i = 0; i < n; i++) {
        score[i] = expf(score[i] - s->max);
        s->sum += score[i];
    }
    return shrink;
}

INLINE void attend_head(float *out, const float *q, const char *k, const char *v, size_t kv_stride,
                        int begin, int end, int head_dim, float scale, load_fn *load) {
    softmax s = {.max = -FLT_MAX, .sum = 0.0f};
    memset(out, 0, (size_t)head_dim * sizeof *out);
    for (int p0 = begin; p0 < end;) {
        const int p1 = min_int(end, (p0 / CE_ATTN_TILE + 1) * CE_ATTN_TILE);
        float score[CE_ATTN_TILE];
        for (int p = p0; p < p1; p++) {
            float dot = 0.0f;
            for (int i = 0; i < head_dim; i++) {
                dot += q[i] * load(k + p * kv_stride, i);
            }
            score[p - p0] = dot * scale;
        }
        const float shrink = softmax_tile(&s, score, p1 - p0);
        for (int i = 0; i < head_dim; i++) {
            out[i] *= shrink;
        }
        for (int p = p0; p < p1; p++) {
            for (int i = 0; i < head_dim; i++) {
                out[i] += score[p - p0] * load(v + p * kv_stride, i);
            }
        }
        p0 = p1;
    }
    for (int i = 0; i < head_dim; i++) {
        out[i] /= s.sum;
    }
}

#define DEFINE_ATTEND(type)                                                                        \
    static void attend_##type(float *out, const float *q, const void *k, const void *v,            \
                              size_t kv_stride, int begin, int end, int n_q, int head_dim,         \
                              float scale) {                                                       \
        for (int h = 0; h < n_q; h++) {                                                            \
            attend_head(out + (size_t)h * head_dim, q + (size_t)h * head_dim, k, v, kv_stride,     \
                        begin, end, head_dim, scale, load_##type);                                 \
        }                                                                                          \
    }

DEFINE_ATTEND(f16)
DEFINE_ATTEND(f32)

void ce_generic_attention(ce_kernels *k) {
    k->attend_f16 = attend_f16;
    k->attend_f32 = attend_f32;
}
