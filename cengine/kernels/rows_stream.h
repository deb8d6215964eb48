/* One token, or a few: weights are read once, multiplied in registers and not stored. For one, the
 * integers are found row by row and transposed at the end of a block; for a few, the columns. */
#ifndef CE_ROWS_STREAM_H
#define CE_ROWS_STREAM_H

#include "rows_accumulate.h"
#include "rows_spans.h"

/* How far ahead to fetch. On AMD a second time halfway, which brings what the first did not. */
enum { SPANS_AHEAD = 4, AMD_SPANS_AHEAD = 6 };

/* Where to fetch from, from each row's place on. */
typedef struct {
    size_t far, near;
    bool twice; /* the near part too */
} stream_fetch;

INLINE stream_fetch fetch_at(const block_format *f, int b0, int n_blocks, size_t row_bytes) {
    const bool is_amd = is_amd_cpu();
    const int n_ahead = is_amd ? AMD_SPANS_AHEAD : SPANS_AHEAD;
    return (stream_fetch){.far = prefetch_distance(f, b0, n_blocks, n_ahead, ROWS, row_bytes),
                          .near = prefetch_distance(f, b0, n_blocks, n_ahead / 2, ROWS, row_bytes),
                          .twice = is_amd};
}

INLINE void fetch_part(const block_format *f, const uint8_t *const row[ROWS], int b,
                       stream_fetch fetch) {
    if (fetch.twice) {
        prefetch_part(row, b, fetch.near, span_bytes(f));
    }
    prefetch_part(row, b, fetch.far, span_bytes(f));
}

/* The span under way, of ROWS rows. */
typedef struct {
    row_scales scales;
    stream_fetch fetch;
} stream_span;

/* Begins the span from block b0 on, and tells how many blocks it has. */
INLINE int start_span(stream_span *span, const block_format *f, const uint8_t *const row[ROWS],
                      int b0, int n_blocks, size_t row_bytes) {
    const int n = span_at(f, b0, n_blocks);
    span->fetch = fetch_at(f, b0, n_blocks, row_bytes);
    f->scales(&span->scales, row, n);
    return n;
}

/* ---- One token ---- */

/* Whether the sums of n products fit 16 bits: the activations are -127 ... 127. */
INLINE bool fit_16_bits(int n, int max_quant) { return n * 127 * max_quant <= INT16_MAX; }

/* ROWS rows times one token; b0: its first block of the span. */
typedef struct {
    stream_span span;
    floats acc;
    const ce_acts *x;
    int b0;
} stream;

/* The k-th vector's sums of four products, with the 32 columns at q. */
INLINE ints products_of_rows(const block_format *f, const uint8_t *const row[ROWS],
                             const span_points *points, int k, int b, const int8_t *q) {
    const ints zero = {0};
    const bytes xq = broadcast_columns(q, k);
    if (has_signs(f)) { /* they are given to the columns, so that points need no offset */
        const slice s = slice_of(row, k, 0);
        uint32_t negative[ROWS_PER_VECTOR];
        marked_in_slice(negative, points, k, b);
        return dot_4(zero, look_up_points(f, points, s, k, b), negate_where(xq, s, negative), 0);
    }
    const bytes offset = (bytes){0} + (uint8_t)offset_of(f);
    const ints start = offset_of(f) != 0 ? zero - dot_4(zero, offset, xq, 0) : zero;
    return dot_4(start, quants_at(f, row, points, k, b), xq, f->is_signed ? f->max_quant : 0);
}

/* The integers row by row: sums of four columns, transposed. */
INLINE void stream_rows(stream *s, const block_format *f, const uint8_t *const row[ROWS],
                        const span_points *points, int b) {
    const int at = s->b0 + b;
    ints sums[VECTORS], half[2];
#pragma GCC unroll 8 /* VECTORS */
    for (int k = 0; k < VECTORS; k++) {
        sums[k] = products_of_rows(f, row, points, k, b, s->x->q + at * CE_QK);
    }
    sum_halves(half, sums, fit_16_bits(8, max_int(f->max_quant - f->offset, f->offset)));
    s->acc = accumulate(f, s->acc, half, &s->span.scales, b, terms_of_token(s->x, at));
}

INLINE bool has_quarters(const block_format *f) {
    return f->halves != NULL && (f->has_halves_at_once || PREFERS_QUARTERS);
}

/* By quarters of the rows: half as many sums to transpose. */
INLINE void stream_quarters(stream *s, const block_format *f, const uint8_t *const row[ROWS],
                            int b) {
    const int at = s->b0 + b;
    const int8_t *q = s->x->q + at * CE_QK;
    const bytes columns[2] = {broadcast_16(q), broadcast_16(q + 16)};
    const block_terms x = terms_of_token(s->x, at);
    ints sums[4];
#pragma GCC unroll 4 /* quarters */
    for (int k = 0; k < 4; k++) {
        bytes w[2];
        halves_at(w, f, row, k, b);
        sums[k] = dot_8(w, columns, f->is_signed, f->max_quant);
    }
    const ints sum = sum_quarters(sums, fit_16_bits(16, f->max_quant));
    const ints half[2] = {sum, splat_int(-offset_of(f) * (x.sums.half[0] + x.sums.half[1]))};
    s->acc = accumulate(f, s->acc, half, &s->span.scales, b, x);
}

/* Column by column, where these come so. */
INLINE void stream_columns(stream *s, const block_format *f, const uint8_t *const row[ROWS],
                           const span_points *points, int b) {
    bytes columns[GROUPS];
    const bytes *const w[PANELS] = {columns};
    const row_scales *const scales[PANELS] = {&s->span.scales};
    floats acc[TILE][PANELS] = {{s->acc}};
    unpack_block(columns, f, row, points, b);
    add_products_of_block(acc, f, add_products, w, scales, 1, b, block_of_token(s->x, s->b0 + b),
                          1);
    s->acc = acc[0][0];
}

/* block_fn */
INLINE void stream_block(void *context, const block_format *f, const uint8_t *const row[ROWS],
                         const span_points *points, int b) {
    stream *s = context;
    fetch_part(f, row, b, s->span.fetch);
    if (has_points_in_columns(f)) {
        stream_columns(s, f, row, points, b);
    } else if (has_quarters(f)) {
        stream_quarters(s, f, row, b);
    } else {
        stream_rows(s, f, row, points, b);
    }
}

INLINE void matmul_stream(const block_format *f, float *y, const void *w, size_t row_bytes,
                          int n_rows, const ce_acts *x, int n_cols) {
    const int n_blocks = n_cols / CE_QK;
    for (int r = 0; r < n_rows; r += ROWS) {
        const uint8_t *row[ROWS];
        point_at_rows(row, w, row_bytes, r, n_rows);
        stream s = {.x = x};
        for (; s.b0 < n_blocks; s.b0 += SPAN) {
            const int n = start_span(&s.span, f, row, s.b0, n_blocks, row_bytes);
            for_blocks(f, row, n, stream_block, &s);
            advance_rows(row, span_bytes(f));
        }
        store_rows(y + r, s.acc, n_rows - r);
    }
}

/* ---- A few tokens ---- */

_Static_assert((int)ROW_STREAM_TOKENS <= (int)TILE, "their sums fit the registers");

/* ROWS rows times n_tokens tokens, in the first of the panels. */
typedef struct {
    stream_span span;
    floats acc[TILE][PANELS];
    const packed_block *x; /* from the span on */
    int n_tokens;
} stream_of_few;

/* block_fn: unpacked once, to registers. */
INLINE void stream_block_few(void *context, const block_format *f, const uint8_t *const row[ROWS],
                             const span_points *points, int b) {
    stream_of_few *s = context;
    bytes columns[GROUPS];
    const bytes *const w[PANELS] = {columns};
    const row_scales *const scales[PANELS] = {&s->span.scales};
    const packed_block *x = s->x + b;
    fetch_part(f, row, b, s->span.fetch);
    unpack_block(columns, f, row, points, b);
    for (int t = 0; t < s->n_tokens;) {
        const int n_left = s->n_tokens - t;
        if (n_left >= TILE) {
            add_products_of_block(s->acc + t, f, add_products, w, scales, 1, b,
                                  tokens_of_packed(x, t, TILE), TILE);
            t += TILE;
        } else if (n_left >= 2) {
            add_products_of_block(s->acc + t, f, add_products, w, scales, 1, b,
                                  tokens_of_packed(x, t, 2), 2);
            t += 2;
        } else {
            add_products_of_block(s->acc + t, f, add_products, w, scales, 1, b,
                                  tokens_of_packed(x, t, 1), 1);
            t += 1;
        }
    }
}

/* n_tokens: at most ROW_STREAM_TOKENS. */
INLINE void matmul_stream_few(const block_format *f, float *y, size_t y_stride, weight_rows w,
                              const packed_block *x, int n_tokens) {
    for (int r = 0; r < w.n_rows; r += ROWS) {
        const uint8_t *row[ROWS];
        point_at_rows(row, w.w, w.row_bytes, r, w.n_rows);
        stream_of_few s = {.n_tokens = n_tokens};
        for (int b0 = 0; b0 < w.n_blocks; b0 += SPAN) {
            const int n = start_span(&s.span, f, row, b0, w.n_blocks, w.row_bytes);
            s.x = x + b0;
            for_blocks(f, row, n, stream_block_few, &s);
            advance_rows(row, span_bytes(f));
        }
        for (int t = 0; t < n_tokens; t++) {
            store_rows(y + t * y_stride + r, s.acc[t][0], w.n_rows - r);
        }
    }
}

#endif
