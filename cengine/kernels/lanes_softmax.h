/* Powers of 2, and the online softmax of many queries at once, a query a lane. Included after a
 * header of lanes (*_lanes.h). */
#ifndef CE_LANES_SOFTMAX_H
#define CE_LANES_SOFTMAX_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "inline.h"
#include "kernels.h"

INLINE int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

/* 2^x for x <= 127 as 2^n 2^r with n = rint(x): the minimax polynomial of degree 5 for |r| <= 1/2
 * among those that are 1 at 0, so that 2^0 = 1. Within 1.1e-7 before rounding; 0 far below the
 * smallest number. A NaN stays. */
INLINE lanes exp2_lanes(lanes x) {
    static const float coefficient[] = {0x1.5bb9e6p-10f, 0x1.3cea8cp-7f, 0x1.c6b754p-5f,
                                        0x1.ebf9bcp-3f,  0x1.62e42ap-1f, 1.0f};
    x = larger(splat(-160.0f), x);
    const lanes n = round_lanes(x), r = subtract(x, n);
    lanes p = splat(coefficient[0]);
    for (int i = 1; i < 6; i++) {
        p = fma_lanes(p, r, splat(coefficient[i]));
    }
    return scale_by_power(p, n);
}

/* ---- Queries in lanes ---- */

enum { BLOCK = 2 * LANES };

/* Queries are counted head by head, then row by row. Lanes beyond the last repeat it. */
typedef struct {
    int begin[BLOCK], end[BLOCK]; /* the positions that each sees; both ascend */
    float max[BLOCK], sum[BLOCK]; /* of the softmax so far: sum of 2^(score - max) */
} query_block;

INLINE int count_queries(const ce_queries *a) { return a->n_rows * a->n_heads; }

INLINE int count_blocks(const ce_queries *a) { return (count_queries(a) + BLOCK - 1) / BLOCK; }

/* Where query `at` has its q or out. */
INLINE size_t query_offset(const ce_queries *a, int at) {
    return (size_t)(at / a->n_heads) * a->row_stride + (size_t)(at % a->n_heads * a->head_dim);
}

static void start_block(query_block *b, const ce_queries *a, int first) {
    for (int i = 0; i < BLOCK; i++) {
        const int row = min_int(first + i, count_queries(a) - 1) / a->n_heads;
        const ce_seen seen = ce_seen_by(a, row);
        b->begin[i] = seen.begin;
        b->end[i] = seen.end;
        b->max[i] = -FLT_MAX;
        b->sum[i] = 0.0f;
    }
}

/* How many positions from p0 on, at most n, some query of the block sees. */
INLINE int count_seen(const query_block *b, int p0, int n) {
    return b->begin[0] >= p0 + n ? 0 : min_int(n, b->end[BLOCK - 1] - p0);
}

/* Scores [n][BLOCK] of the positions from p0 on become weights 2^(score - max), those of positions
 * that a query does not see 0; shrink[BLOCK] brings earlier sums to the new maximum. */
INLINE void weigh_block(float *score, query_block *b, int p0, int n, float *shrink) {
    const bool all_seen = b->begin[BLOCK - 1] <= p0 && b->end[0] >= p0 + n;
    for (int i = 0; i < BLOCK; i += LANES) {
        const lanes old_max = load(b->max + i);
        lanes max = old_max, sum = splat(0.0f);
        for (int p = 0; p < n; p++) {
            lanes x = load(score + p * BLOCK + i);
            if (!all_seen) {
                x = hide_outside(x, p0 + p, b->begin + i, b->end + i);
                store(score + p * BLOCK + i, x);
            }
            max = larger(x, max);
        }
        for (int p = 0; p < n; p++) {
            const lanes x = exp2_lanes(subtract(load(score + p * BLOCK + i), max));
            store(score + p * BLOCK + i, x);
            sum = add(sum, x);
        }
        const lanes factor = exp2_lanes(subtract(old_max, max));
        store(shrink + i, factor);
        store(b->max + i, max);
        store(b->sum + i, fma_lanes(load(b->sum + i), factor, sum));
    }
}

/* sums: [head_dim][BLOCK], of weight * v. */
static void finish_block(const ce_queries *a, const query_block *b, const float *sums, int first) {
    const int n = min_int(BLOCK, count_queries(a) - first);
    for (int i = 0; i < n; i++) {
        float *out = a->out + query_offset(a, first + i);
        for (int d = 0; d < a->head_dim; d++) {
            out[d] = sums[d * BLOCK + i] / b->sum[i];
        }
        if (a->log_sum != NULL) {
            a->log_sum[first + i] = b->max[i] + log2f(b->sum[i]);
        }
    }
}

/* ---- Scratch ---- */

/* The next `bytes` of the scratch memory, aligned to a cache line. */
INLINE void *take_bytes(char **scratch, size_t bytes) {
    char *p = *scratch;
    *scratch = p + (bytes + 63) / 64 * 64;
    return p;
}

INLINE float *take_floats(char **scratch, int rows, int columns) {
    return take_bytes(scratch, (size_t)rows * (size_t)columns * sizeof(float));
}

/* Position p's key or value as the cache has it, and as floats. */
INLINE const char *row_at(const ce_queries *a, const void *cache, int p) {
    return (const char *)cache + (size_t)p * a->kv_row_bytes;
}

INLINE void widen(float *to, const ce_queries *a, const void *cache, int p) {
    a->kv_type(to, row_at(a, cache, p), a->head_dim);
}

INLINE bool all_finite(const float *x, int n) {
    lanes zero = splat(0.0f);
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        zero = fma_lanes(load(x + i), splat(0.0f), zero);
    }
    if (i < n) {
        zero = fma_lanes(load_first(x + i, n - i), splat(0.0f), zero);
    }
    return sum_lanes(zero) == 0.0f;
}

/* Position p's key and value, for many queries at once. A value that is no number would reach, by
 * 0 * NaN, queries that do not see it: it makes its key none instead, and counts as 0. */
INLINE void widen_pair(float *key, float *value, const ce_queries *a, int p) {
    widen(key, a, a->k, p);
    widen(value, a, a->v, p);
    if (!all_finite(value, a->head_dim)) {
        key[0] = NAN;
        memset(value, 0, (size_t)a->head_dim * sizeof *value);
    }
}

#endif
