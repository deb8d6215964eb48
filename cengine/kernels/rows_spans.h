/* Walking over spans of ROWS rows as the file has them, and fetching what comes next. */
#ifndef CE_ROWS_SPANS_H
#define CE_ROWS_SPANS_H

#include "rows_blocks.h"
#include "rows_blocks_iq.h"

/* ---- Prefetch ---- */

INLINE bool is_amd_cpu(void) {
#if defined(__x86_64__)
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

/* ROWS rows are as many streams, which end after a page or two: the hardware's prefetcher barely
 * gets going in them. This is how far ahead of block b0 to fetch: some spans and, near the end of
 * the rows, into the n_rows behind them. */
INLINE size_t prefetch_distance(const block_format *f, int b0, int n_blocks, int n_spans,
                                int n_rows, size_t row_bytes) {
    const size_t distance = n_spans * span_bytes(f);
    return b0 + n_spans * SPAN < n_blocks ? distance : distance + (n_rows - 1) * row_bytes;
}

/* The b-th part of n_bytes of each of the rows: a span of all of them in one burst would find no
 * free line buffers. */
INLINE void prefetch_part(const uint8_t *const row[ROWS], int b, size_t distance, size_t n_bytes) {
    for (int i = b * ROWS / SPAN; i < (b + 1) * ROWS / SPAN; i++) {
        for (size_t at = 0; at < n_bytes; at += CACHE_LINE) {
            __builtin_prefetch(row[i] + distance + at);
        }
    }
}

/* ---- Blocks ---- */

/* What is done with block b of a span; points: where the type has them. */
typedef void block_fn(void *context, const block_format *f, const uint8_t *const row[ROWS],
                      const span_points *points, int b);

INLINE void for_blocks(const block_format *f, const uint8_t *const row[ROWS], int n, block_fn *fn,
                       void *context) {
    if (f->find_points != NULL) {
        span_points points;
        f->find_points(&points, f, row);
#pragma GCC unroll 2 /* eight times the code would not fit the caches of instructions */
        for (int b = 0; b < n; b++) {
            fn(context, f, row, &points, b);
        }
    } else {
#pragma GCC unroll 8 /* SPAN: makes the shifts in quants() constants */
        for (int b = 0; b < n; b++) {
            fn(context, f, row, NULL, b);
        }
    }
}

INLINE void unpack_block(bytes quants[GROUPS], const block_format *f,
                         const uint8_t *const row[ROWS], const span_points *points, int b) {
    if (has_points_in_columns(f)) {
        columns_of_points(quants, f, points, b);
        return;
    }
    bytes v[VECTORS];
#pragma GCC unroll 8 /* VECTORS */
    for (int k = 0; k < VECTORS; k++) {
        v[k] = quants_at(f, row, points, k, b);
    }
    transpose(quants, v);
}

#endif
