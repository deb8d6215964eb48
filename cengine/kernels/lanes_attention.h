/* Attention in vectors of any width: included by the file that is compiled for one, after its
 * *_load.h. Tiles, softmax and powers of 2 are those of generic_attention.c.
 *
 * A generated token has few queries: lanes go over the columns of a head. A score sums over
 * columns i, i + LANES ... and then over the lanes; out[i] sums over positions, ascending.
 * A prompt's tile of rows has many: lanes go over queries, so that scores and values are products
 * of matrices, and the softmax needs nothing across lanes. A score sums over columns, ascending,
 * and out[i] over positions, ascending. */
#ifndef CE_LANES_ATTENTION_H
#define CE_LANES_ATTENTION_H

#include <string.h>

#include "blocks.h"
#include "lanes_softmax.h"

/* ---- A generated token ---- */

enum { KEYS = 4, VECTORS = 4, STEP = VECTORS * LANES };

typedef struct {
    float max, sum;
} softmax;

INLINE lanes load_n(const float *p, int n) { return n == LANES ? load(p) : load_first(p, n); }

/* n (at most LANES) columns from i on of a key or value of the cache. */
typedef lanes columns_fn(const void *row, int i, int n);

INLINE lanes columns_f32(const void *row, int i, int n) {
    return load_n((const float *)row + i, n);
}

INLINE lanes columns_f16(const void *row, int i, int n) {
    return n == LANES ? load_f16(row, i) : load_tail_f16(row, i, n);
}

/* A row is whole blocks, and these whole vectors. */
INLINE lanes columns_q8_0(const void *row, int i, int n) {
    (void)n;
    const ce_block_q8_0 *block = (const ce_block_q8_0 *)row + i / CE_QK;
    return multiply(splat_half(block->d), load_int8(block->qs + i % CE_QK));
}

/* Keys and values are one stream each, but a core that computes has few loads under way. */
INLINE void prefetch_rows(const ce_queries *a, int p) {
    enum { ROWS_AHEAD = 32, CACHE_LINE = 64 };
    const char *key = row_at(a, a->k, p + ROWS_AHEAD), *value = row_at(a, a->v, p + ROWS_AHEAD);
    for (size_t i = 0; i < a->kv_row_bytes; i += CACHE_LINE) {
        __builtin_prefetch(key + i, 0, 2);
        __builtin_prefetch(value + i, 0, 2);
    }
}

/* n (at most LANES) columns from i on of n_heads heads times four keys. */
INLINE void multiply_keys(lanes dot[GROUP][KEYS], const float *q, const void *const key[KEYS],
                          columns_fn *columns, int head_dim, int n_heads, int i, int n) {
    lanes k[KEYS];
    for (int j = 0; j < KEYS; j++) {
        k[j] = columns(key[j], i, n);
    }
    for (int h = 0; h < n_heads; h++) {
        const lanes qh = load_n(q + h * head_dim + i, n);
        for (int j = 0; j < KEYS; j++) {
            dot[h][j] = fma_lanes(qh, k[j], dot[h][j]);
        }
    }
}

/* score[h][j] = q[h] . key[j] for n_heads (at most GROUP) heads and four keys. */
INLINE void score_keys(float *score, const float *q, const void *const key[KEYS],
                       columns_fn *columns, int head_dim, int n_heads) {
    lanes dot[GROUP][KEYS];
    for (int h = 0; h < n_heads; h++) {
        for (int j = 0; j < KEYS; j++) {
            dot[h][j] = splat(0.0f);
        }
    }
    int i = 0;
    for (; i + LANES <= head_dim; i += LANES) {
        multiply_keys(dot, q, key, columns, head_dim, n_heads, i, LANES);
    }
    if (i < head_dim) {
        multiply_keys(dot, q, key, columns, head_dim, n_heads, i, head_dim - i);
    }
    for (int h = 0; h < n_heads; h++) {
        store_4_sums(score + h * CE_ATTN_TILE, dot[h]);
    }
}

/* Dot products to weights, as softmax_tile in generic_attention.c; beyond n the scores are
 * -infinity, and add nothing. */
static float softmax_tile(softmax *s, float *score, int n, float scale) {
    for (int i = n; i % LANES != 0; i++) {
        score[i] = -INFINITY;
    }
    lanes max = splat(s->max), sum = splat(0.0f);
    for (int i = 0; i < n; i += LANES) {
        const lanes x = multiply(load(score + i), splat(scale));
        store(score + i, x);
        max = larger(x, max);
    }
    const float old_max = s->max;
    s->max = max_lanes(max);
    for (int i = 0; i < n; i += LANES) {
        const lanes weight = exp2_lanes(subtract(load(score + i), splat(s->max)));
        store(score + i, weight);
        sum = add(sum, weight);
    }
    float shrink[LANES];
    store(shrink, exp2_lanes(splat(old_max - s->max)));
    s->sum = s->sum * shrink[0] + sum_lanes(sum);
    return shrink[0];
}

/* n_vectors vectors of columns from i on (the last of n_last) of n_heads heads:
 * out += weight * value, of the positions [p0, p1). */
INLINE void add_columns(const ce_queries *a, columns_fn *columns, float *out, const float *weight,
                        int p0, int p1, int n_heads, int i, int n_vectors, int n_last) {
    lanes sum[GROUP][VECTORS];
    for (int h = 0; h < n_heads; h++) {
        for (int k = 0; k < n_vectors; k++) {
            sum[h][k] = load_n(out + h * a->head_dim + i + k * LANES, n_last);
        }
    }
    for (int p = p0; p < p1; p++) {
        lanes value[VECTORS];
        for (int k = 0; k < n_vectors; k++) {
            value[k] = columns(row_at(a, a->v, p), i + k * LANES, n_last);
        }
        for (int h = 0; h < n_heads; h++) {
            const lanes w = splat(weight[h * CE_ATTN_TILE + p - p0]);
            for (int k = 0; k < n_vectors; k++) {
                sum[h][k] = fma_lanes(w, value[k], sum[h][k]);
            }
        }
    }
    for (int h = 0; h < n_heads; h++) {
        for (int k = 0; k < n_vectors; k++) {
            float *to = out + h * a->head_dim + i + k * LANES;
            if (n_last == LANES) {
                store(to, sum[h][k]);
            } else {
                store_first(to, sum[h][k], n_last);
            }
        }
    }
}

INLINE void add_values(const ce_queries *a, columns_fn *columns, float *out, const float *weight,
                       int p0, int p1, int n_heads) {
    int i = 0;
    for (; i + STEP <= a->head_dim; i += STEP) {
        add_columns(a, columns, out, weight, p0, p1, n_heads, i, VECTORS, LANES);
    }
    for (; i + LANES <= a->head_dim; i += LANES) {
        add_columns(a, columns, out, weight, p0, p1, n_heads, i, 1, LANES);
    }
    if (i < a->head_dim) {
        add_columns(a, columns, out, weight, p0, p1, n_heads, i, 1, a->head_dim - i);
    }
}

static void scale_row(float *x, int n, float factor) {
    for (int i = 0; i < n; i++) {
        x[i] *= factor;
    }
}

/* The positions [p0, p1) of one tile, GROUP heads at a time. score: [n_heads][CE_ATTN_TILE] */
INLINE void attend_tile(const ce_queries *a, columns_fn *columns, const float *q, float *out,
                        softmax *s, float *score, int p0, int p1) {
    const int hd = a->head_dim;
    for (int p = p0; p < p1; p += KEYS) {
        const void *key[KEYS]; /* beyond the last: it again, whose scores are not read */
        for (int j = 0; j < KEYS; j++) {
            key[j] = row_at(a, a->k, min_int(p + j, p1 - 1));
            prefetch_rows(a, p + j);
        }
        float *to = score + p - p0;
        int h = 0;
        for (; h + GROUP <= a->n_heads; h += GROUP) {
            score_keys(to + h * CE_ATTN_TILE, q + h * hd, key, columns, hd, GROUP);
        }
        for (; h < a->n_heads; h++) {
            score_keys(to + h * CE_ATTN_TILE, q + h * hd, key, columns, hd, 1);
        }
    }
    for (int h = 0; h < a->n_heads; h++) {
        const float shrink = softmax_tile(&s[h], score + h * CE_ATTN_TILE, p1 - p0, a->scale);
        scale_row(out + h * hd, hd, shrink);
    }
    int h = 0;
    for (; h + GROUP <= a->n_heads; h += GROUP) {
        add_values(a, columns, out + h * hd, score + h * CE_ATTN_TILE, p0, p1, GROUP);
    }
    for (; h < a->n_heads; h++) {
        add_values(a, columns, out + h * hd, score + h * CE_ATTN_TILE, p0, p1, 1);
    }
}

INLINE void attend_row(const ce_queries *a, columns_fn *columns, int row) {
    const ce_seen seen = ce_seen_by(a, row);
    char *scratch = a->scratch;
    float *score = take_floats(&scratch, a->n_heads, CE_ATTN_TILE);
    softmax *s = take_bytes(&scratch, (size_t)a->n_heads * sizeof *s);
    const float *q = a->q + (size_t)row * a->row_stride;
    float *out = a->out + (size_t)row * a->row_stride;

    memset(out, 0, (size_t)(a->n_heads * a->head_dim) * sizeof *out);
    for (int h = 0; h < a->n_heads; h++) {
        s[h] = (softmax){.max = -FLT_MAX};
    }
    for (int p0 = seen.begin; p0 < seen.end;) {
        const int p1 = min_int(seen.end, (p0 / CE_ATTN_TILE + 1) * CE_ATTN_TILE);
        attend_tile(a, columns, q, out, s, score, p0, p1);
        p0 = p1;
    }
    for (int h = 0; h < a->n_heads; h++) {
        for (int i = 0; i < a->head_dim; i++) {
            out[h * a->head_dim + i] /= s[h].sum;
        }
        if (a->log_sum != NULL) {
            a->log_sum[row * a->n_heads + h] = s[h].max + log2f(s[h].sum);
        }
    }
}

#define FOR_CACHE_TYPES(DO)                                                                        \
    DO(F32, f32)                                                                                   \
    DO(F16, f16)                                                                                   \
    DO(Q8_0, q8_0)

#define DEFINE_GENERATED(TYPE, type)                                                               \
    static void attend_generated_##type(const ce_queries *a) {                                     \
        for (int row = 0; row < a->n_rows; row++) {                                                \
            attend_row(a, columns_##type, row);                                                    \
        }                                                                                          \
    }

FOR_CACHE_TYPES(DEFINE_GENERATED)

/* ---- A prompt's rows ---- */

/* sum[j] += over t < n: left[j * side + t * step] * right[t], for SIDE rows and a block. */
INLINE void sum_products(lanes sum[SIDE][2], const float *left, int side, int step,
                         const float *right, int n) {
    for (int t = 0; t < n; t++) {
        const lanes r0 = load(right + t * BLOCK), r1 = load(right + t * BLOCK + LANES);
        for (int j = 0; j < SIDE; j++) {
            const lanes l = splat(left[j * side + t * step]);
            sum[j][0] = fma_lanes(l, r0, sum[j][0]);
            sum[j][1] = fma_lanes(l, r1, sum[j][1]);
        }
    }
}

/* score[j] = keys[j] . q, SIDE keys at a time: those beyond n give scores that are not read.
 * q: [head_dim][BLOCK] */
static void score_block(float *score, const float *keys, int stride, const float *q, int head_dim,
                        int n) {
    for (int p = 0; p < n; p += SIDE) {
        lanes sum[SIDE][2];
        for (int j = 0; j < SIDE; j++) {
            sum[j][0] = sum[j][1] = splat(0.0f);
        }
        sum_products(sum, keys + p * stride, stride, 1, q, head_dim);
        for (int j = 0; j < SIDE; j++) {
            store(score + (p + j) * BLOCK, sum[j][0]);
            store(score + (p + j) * BLOCK + LANES, sum[j][1]);
        }
    }
}

/* sums = sums * shrink + values * weights; sums: [head_dim][BLOCK], rounded up to SIDE rows */
static void add_block(float *sums, const float *shrink, const float *values, int stride,
                      const float *weights, int head_dim, int n) {
    const lanes shrink0 = load(shrink), shrink1 = load(shrink + LANES);
    for (int d = 0; d < head_dim; d += SIDE) {
        lanes sum[SIDE][2];
        for (int j = 0; j < SIDE; j++) {
            sum[j][0] = multiply(load(sums + (d + j) * BLOCK), shrink0);
            sum[j][1] = multiply(load(sums + (d + j) * BLOCK + LANES), shrink1);
        }
        sum_products(sum, values + d, 1, stride, weights, n);
        for (int j = 0; j < SIDE; j++) {
            store(sums + (d + j) * BLOCK, sum[j][0]);
            store(sums + (d + j) * BLOCK + LANES, sum[j][1]);
        }
    }
}

/* to: [head_dim][BLOCK], the scaled queries from `first` on. */
static void load_queries(float *to, const ce_queries *a, int first) {
    for (int i = 0; i < BLOCK; i++) {
        const float *q = a->q + query_offset(a, min_int(first + i, count_queries(a) - 1));
        for (int d = 0; d < a->head_dim; d++) {
            to[d * BLOCK + i] = q[d] * a->scale;
        }
    }
}

static void attend_prompt(const ce_queries *a) {
    const int n_blocks = count_blocks(a), columns = round_up(a->head_dim, 32);
    const size_t block_size = (size_t)columns * BLOCK;
    char *scratch = a->scratch;
    float *keys = take_floats(&scratch, CE_ATTN_TILE, columns);
    float *values = take_floats(&scratch, CE_ATTN_TILE, columns);
    float *score = take_floats(&scratch, CE_ATTN_TILE, BLOCK);
    float *q = take_floats(&scratch, n_blocks * BLOCK, columns);
    float *sums = take_floats(&scratch, n_blocks * BLOCK, columns);
    query_block *block = take_bytes(&scratch, (size_t)n_blocks * sizeof *block);

    memset(sums, 0, n_blocks * block_size * sizeof *sums);
    for (int b = 0; b < n_blocks; b++) {
        start_block(&block[b], a, b * BLOCK);
        load_queries(q + b * block_size, a, b * BLOCK);
    }
    for (int p0 = a->begin / CE_ATTN_TILE * CE_ATTN_TILE; p0 < a->end; p0 += CE_ATTN_TILE) {
        const int from = max_int(p0, a->begin), n = min_int(p0 + CE_ATTN_TILE, a->end) - from;
        for (int j = 0; j < n; j++) {
            widen_pair(keys + j * columns, values + j * columns, a, from + j);
        }
        for (int b = 0; b < n_blocks; b++) {
            const int n_seen = count_seen(&block[b], from, n);
            if (n_seen <= 0) {
                continue;
            }
            float shrink[BLOCK];
            score_block(score, keys, columns, q + b * block_size, a->head_dim, n_seen);
            weigh_block(score, &block[b], from, n_seen, shrink);
            add_block(sums + b * block_size, shrink, values, columns, score, a->head_dim, n_seen);
        }
    }
    for (int b = 0; b < n_blocks; b++) {
        finish_block(a, &block[b], sums + b * block_size, b * BLOCK);
    }
}

/* ---- The kernels ---- */

#define OVERLAY_ATTENTION(TYPE, type)                                                              \
    k->attend[CE_PHASE_PROMPT][CE_TYPE_##TYPE] = attend_prompt;                                    \
    k->attend[CE_PHASE_GENERATED][CE_TYPE_##TYPE] = attend_generated_##type;

static void overlay_attention(ce_kernels *k) {
    FOR_CACHE_TYPES(OVERLAY_ATTENTION)
    k->attend_queries = 256;
}

#endif
