/* Attention over a KV cache with an online softmax (arXiv:1805.02867, arXiv:2205.14135), one tile
 * of positions at a time, in powers of 2: whoever calls puts log2 e into the scale. Within a tile
 * every sum runs in the order of positions. */
#include "generic.h"
#include "inline.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* The softmax so far: the weights that went into out[] are 2^(score - max), and sum to sum. */
typedef struct {
    float max;
    float sum;
} softmax;

/* score[i] becomes 2^(score[i] - max) with the maximum taken over all tiles so far. Returns the
 * factor that brings earlier tiles to that maximum. */
static float softmax_tile(softmax *s, float *score, int n) {
    const float old_max = s->max;
    for (int i = 0; i < n; i++) {
        s->max = score[i] > s->max ? score[i] : s->max;
    }
    const float shrink = exp2f(old_max - s->max);
    s->sum *= shrink;
    for (int i = 0; i < n; i++) {
        score[i] = exp2f(score[i] - s->max);
        s->sum += score[i];
    }
    return shrink;
}

/* Position p's key or value as floats. */
static const float *widen(const ce_queries *a, const void *cache, int p) {
    a->kv_type(a->scratch, (const char *)cache + (size_t)p * a->kv_row_bytes, a->head_dim);
    return a->scratch;
}

/* Positions [p0, p1) of one tile, for one query. */
static void attend_tile(const ce_queries *a, softmax *s, float *out, const float *q, int p0,
                        int p1) {
    float score[CE_ATTN_TILE];
    for (int p = p0; p < p1; p++) {
        const float *key = widen(a, a->k, p);
        float dot = 0.0f;
        for (int i = 0; i < a->head_dim; i++) {
            dot += q[i] * key[i];
        }
        score[p - p0] = dot * a->scale;
    }
    const float shrink = softmax_tile(s, score, p1 - p0);
    for (int i = 0; i < a->head_dim; i++) {
        out[i] *= shrink;
    }
    for (int p = p0; p < p1; p++) {
        const float *value = widen(a, a->v, p);
        for (int i = 0; i < a->head_dim; i++) {
            out[i] += score[p - p0] * value[i];
        }
    }
}

static void attend_head(const ce_queries *a, int row, int head) {
    const size_t at = (size_t)row * a->row_stride + (size_t)(head * a->head_dim);
    const ce_seen seen = ce_seen_by(a, row);
    float *out = a->out + at;
    softmax s = {.max = -FLT_MAX, .sum = 0.0f};
    memset(out, 0, (size_t)a->head_dim * sizeof *out);
    for (int p0 = seen.begin; p0 < seen.end;) {
        const int p1 = min_int(seen.end, (p0 / CE_ATTN_TILE + 1) * CE_ATTN_TILE);
        attend_tile(a, &s, out, a->q + at, p0, p1);
        p0 = p1;
    }
    for (int i = 0; i < a->head_dim; i++) {
        out[i] /= s.sum;
    }
    if (a->log_sum != NULL) {
        a->log_sum[row * a->n_heads + head] = s.max + log2f(s.sum);
    }
}

static void attend(const ce_queries *a) {
    for (int row = 0; row < a->n_rows; row++) {
        for (int head = 0; head < a->n_heads; head++) {
            attend_head(a, row, head);
        }
    }
}

void ce_generic_attention(ce_kernels *k) {
    static const ce_type types[] = {CE_TYPE_F32, CE_TYPE_F16, CE_TYPE_Q8_0};
    for (int i = 0; i < 3; i++) {
        k->attend[CE_PHASE_PROMPT][types[i]] = attend;
        k->attend[CE_PHASE_GENERATED][types[i]] = attend;
    }
    k->attend_queries = 4; /* few, so that a cancel is answered soon */
}
