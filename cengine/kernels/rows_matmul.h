/* The matmuls of the block types, ROWS weight rows at a time: included by the file of each tier,
 * after its *_rows.h and with its name in TIER.
 *
 * The order of accumulation, the same in both phases: lanes are rows, and for blocks b of 32
 * columns in ascending order, starting from acc = 0,
 *     acc = fma(float(isum[b]), w_scale[b] * x_scale[b], acc)
 *     acc = fma(-w_min[b], x_scale[b] * float(x_sum[b]), acc)      (types with a min)
 * where isum[b] is the exact integer sum of w_q * x_q over the block, and x_sum[b] that of x_q,
 * with integer scales of 16 columns as factors inside (mult, min_mult).
 *
 * Two paths find the integers. Stream, for one token: integers row by row, transposed at the end of
 * a block; the weights are read once and not stored. Panels, for more: a span of BLOCK_ROWS rows is
 * unpacked to bytes, four columns of each row side by side, and swept with all tokens while it lies
 * in L1; the sums of BLOCK_ROWS rows times BLOCK_TOKENS tokens lie in L2, and the tokens, packed
 * block by block, are read from there once for all these rows. Rows beyond the last repeat it, and
 * are not stored. */
#ifndef CE_ROWS_MATMUL_H
#define CE_ROWS_MATMUL_H

#include "overlay.h"
#include "rows_blocks.h"
#include "rows_blocks_iq.h"

/* ---- Floats: the one place where blocks are accumulated ---- */

INLINE ints splat_int(int32_t v) { return v - (ints){0}; }

INLINE floats splat(float v) { return v - (floats){0}; }

/* half[0] * mult[0] + half[1] * mult[1]. Every product and the sum are below 2^24: exact. */
INLINE floats weighted(const ints half[2], const floats mult[2]) {
    return multiply_add(to_floats(half[0]), mult[0], to_floats(half[1]) * mult[1]);
}

/* A block of one token's activations, as the floats need it. */
typedef struct {
    float scale;
    float scaled_sum; /* scale * sum */
    int32_t half_sum[2];
} block_terms;

INLINE floats accumulate(const block_format *f, floats acc, const ints half[2], const row_scales *s,
                         int b, block_terms x) {
    const floats isum = f->has_mult ? weighted(half, s->mult[b]) : to_floats(half[0] + half[1]);
    acc = multiply_add(isum, s->scale[b] * x.scale, acc);
    if (f->has_min_mult) {
        const ints x_half[2] = {splat_int(x.half_sum[0]), splat_int(x.half_sum[1])};
        acc = subtract_product(s->min[b], x.scale * weighted(x_half, s->min_mult[b]), acc);
    } else if (f->has_min) {
        acc = subtract_product(s->min[b], splat(x.scaled_sum), acc);
    }
    return acc;
}

INLINE int32_t sum_16(const int8_t *q) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        sum += q[i];
    }
    return sum;
}

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

/* ---- Spans ---- */

/* What is done with block b of a span; points: where the type has them. */
typedef void block_fn(void *context, const block_format *f, const uint8_t *const row[ROWS],
                      const span_points *points, int b);

INLINE void for_blocks(const block_format *f, const uint8_t *const row[ROWS], int n, block_fn *fn,
                       void *context) {
    if (f->find_points != NULL) {
        span_points points;
        f->find_points(&points, row);
#pragma GCC unroll 1 /* eight times the code would not fit the caches of instructions */
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

/* ---- Stream ---- */

/* How far ahead to fetch. On AMD a second time halfway, which brings what the first did not. */
enum { SPANS_AHEAD = 4, AMD_SPANS_AHEAD = 6 };

/* Whether the sums of eight products fit 16 bits: the activations are -127 ... 127. */
INLINE bool has_short_sums(const block_format *f) {
    const int above = f->max_quant - f->offset;
    return 8 * 127 * (above > f->offset ? above : f->offset) <= INT16_MAX;
}

/* The sums of a token's columns, 16 by 16; where a type's scales are for as many. */
static void sum_halves_of_token(int32_t *half_sum, const int8_t *q, int n_cols) {
    const bytes ones = (bytes){0} + 1;
    for (int i = 0; i < n_cols; i += (int)sizeof ones) {
        bytes columns;
        memcpy(&columns, q + i, sizeof columns);
        const ints sums = dot_4((ints){0}, ones, columns, false);
        int32_t fours[ROWS];
        memcpy(fours, &sums, sizeof fours);
        for (int k = 0; k < ROWS; k += 4) {
            *half_sum++ = fours[k] + fours[k + 1] + fours[k + 2] + fours[k + 3];
        }
    }
}

/* One token; half_sum: where the type's scales or minimums are of 16 columns. */
typedef struct {
    const ce_acts *acts;
    const int32_t *half_sum;
} token_columns;

INLINE block_terms terms_of_token(const block_format *f, const token_columns *x, int at) {
    const float scale = x->acts->scale[at];
    block_terms terms = {.scale = scale, .scaled_sum = scale * (float)x->acts->sum[at]};
    if (f->has_min_mult) {
        terms.half_sum[0] = x->half_sum[2 * at];
        terms.half_sum[1] = x->half_sum[2 * at + 1];
    }
    return terms;
}

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

/* ROWS rows times one token; b0: its first block of the span. */
typedef struct {
    stream_span span;
    floats acc;
    const token_columns *x;
    int b0;
} stream;

/* block_fn */
INLINE void stream_block(void *context, const block_format *f, const uint8_t *const row[ROWS],
                         const span_points *points, int b) {
    stream *s = context;
    const int at = s->b0 + b;
    const int8_t *q = s->x->acts->q + at * CE_QK;
    const ints zero = {0};
    const bytes offset = (bytes){0} + (uint8_t)offset_of(f);
    ints sums[VECTORS], half[2];
    fetch_part(f, row, b, s->span.fetch);
#pragma GCC unroll 8 /* VECTORS */
    for (int k = 0; k < VECTORS; k++) {
        const bytes xq = broadcast_columns(q, k);
        const ints start = offset_of(f) != 0 ? zero - dot_4(zero, offset, xq, false) : zero;
        sums[k] = dot_4(start, quants_at(f, row, points, k, b), xq, f->is_signed);
    }
    sum_halves(half, sums, has_short_sums(f));
    s->acc = accumulate(f, s->acc, half, &s->span.scales, b, terms_of_token(f, s->x, at));
}

INLINE void matmul_stream(const block_format *f, float *y, const void *w, size_t row_bytes,
                          int n_rows, const ce_acts *x, int n_cols, int32_t *half_sum) {
    const token_columns columns = {x, half_sum};
    const int n_blocks = n_cols / CE_QK;
    if (f->has_min_mult) {
        sum_halves_of_token(half_sum, x->q, n_cols);
    }
    for (int r = 0; r < n_rows; r += ROWS) {
        const uint8_t *row[ROWS];
        point_at_rows(row, w, row_bytes, r, n_rows);
        stream s = {.x = &columns};
        for (; s.b0 < n_blocks; s.b0 += SPAN) {
            const int n = start_span(&s.span, f, row, s.b0, n_blocks, row_bytes);
            for_blocks(f, row, n, stream_block, &s);
            advance_rows(row, span_bytes(f));
        }
        store_rows(y + r, s.acc, n_rows - r);
    }
}

/* ---- Packed tokens ---- */

/* A block of sixteen tokens, side by side. */
typedef struct {
    int8_t q[CE_PACK_TOKENS][CE_QK];
    float scale[CE_PACK_TOKENS];
    float scaled_sum[CE_PACK_TOKENS]; /* scale * sum */
    int32_t sum[CE_PACK_TOKENS];
    int32_t half_sum[2][CE_PACK_TOKENS]; /* of 16 columns */
} packed_block;

static void pack_tokens(void *packed, const ce_acts *x, int n_tokens, int n_cols) {
    packed_block *to = packed;
    const int n_blocks = n_cols / CE_QK;
    if (n_tokens < CE_PACK_TOKENS) {
        memset(to, 0, n_blocks * sizeof *to);
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int b = 0; b < n_blocks; b++) {
            const size_t at = (size_t)t * n_blocks + b;
            const int8_t *q = x->q + at * CE_QK;
            memcpy(to[b].q[t], q, CE_QK);
            to[b].scale[t] = x->scale[at];
            to[b].scaled_sum[t] = x->scale[at] * (float)x->sum[at];
            to[b].sum[t] = x->sum[at];
            to[b].half_sum[0][t] = sum_16(q);
            to[b].half_sum[1][t] = sum_16(q + 16);
        }
    }
}

static const ce_packing token_packing = {
    .min_tokens = 2, .block_bytes = sizeof(packed_block), .pack = pack_tokens};

INLINE block_terms terms_of(const packed_block *x, int t) {
    return (block_terms){x->scale[t], x->scaled_sum[t], {x->half_sum[0][t], x->half_sum[1][t]}};
}

/* ---- Panels ---- */

enum { TILE_ROWS = PANELS * ROWS, BLOCK_ROWS = BLOCK_TILES * TILE_ROWS, BLOCK_TOKENS = 256 };

/* A span of ROWS rows: quants[b][g] is columns 4 g ... 4 g + 3 of block b, row by row. */
typedef struct {
    bytes quants[SPAN][GROUPS];
    row_scales scales;
} panel;

typedef struct {
    panel panels[BLOCK_TILES][PANELS];
    floats acc[BLOCK_TILES][BLOCK_TOKENS][PANELS];
} workspace;

_Static_assert(sizeof(workspace) <= CE_WORK_BYTES, "the workspace of the panels");

INLINE void unpack_block(bytes quants[GROUPS], const block_format *f,
                         const uint8_t *const row[ROWS], const span_points *points, int b) {
    bytes v[VECTORS];
#pragma GCC unroll 8 /* VECTORS */
    for (int k = 0; k < VECTORS; k++) {
        v[k] = quants_at(f, row, points, k, b);
    }
    transpose(quants, v);
}

typedef struct {
    panel *to;
    size_t ahead;
} unpacking;

/* block_fn */
INLINE void unpack_to_panel(void *context, const block_format *f, const uint8_t *const row[ROWS],
                            const span_points *points, int b) {
    const unpacking *u = context;
    /* All lines that a span may lie in: for the last one, the next fetch comes too late. */
    prefetch_part(row, b, u->ahead, span_bytes(f) + CACHE_LINE - 1);
    unpack_block(u->to->quants[b], f, row, points, b);
    order_panel(u->to->quants[b]);
}

INLINE void unpack_panel(panel *p, const block_format *f, const uint8_t *const row[ROWS], int n,
                         size_t prefetch_ahead) {
    unpacking u = {p, prefetch_ahead};
    f->scales(&p->scales, row, n);
    for_blocks(f, row, n, unpack_to_panel, &u);
}

/* add_products() for columns in registers, or add_panel_products(). */
typedef void products_fn(ints sum[PANELS][TILE], const bytes *const w[PANELS], int n_panels, int g0,
                         int g1, const int8_t *q, int n_tokens, bool is_signed, int max_quant);

/* half[h][p][t] = the integers that accumulate() wants, of a block of n_panels panels and n_tokens
 * tokens, whose 32 columns are at q + 32 * t. sum[h][t]: the sum of half h of a token's columns,
 * or, without has_mult, sum[0][t] that of all of them. */
INLINE void multiply_columns(ints half[2][PANELS][TILE], const block_format *f, products_fn *add,
                             const bytes *const w[PANELS], int n_panels, const int8_t *q,
                             const int32_t *const sum[2], int n_tokens) {
    const int n_halves = f->has_mult ? 2 : 1, n_groups = GROUPS / n_halves;
#pragma GCC unroll 2 /* halves */
    for (int h = 0; h < 2; h++) {
        for (int t = 0; t < n_tokens; t++) {
            const ints start = h < n_halves ? splat_int(-offset_of(f) * sum[h][t]) : (ints){0};
            for (int p = 0; p < n_panels; p++) {
                half[h][p][t] = start;
            }
        }
        if (h < n_halves) {
            add(half[h], w, n_panels, h * n_groups, (h + 1) * n_groups, q, n_tokens, f->is_signed,
                f->max_quant);
        }
    }
}

/* A block of activations of up to TILE tokens. */
typedef struct {
    const int8_t *q;       /* 32 columns of token t at q + 32 * t */
    const int32_t *sum[2]; /* see multiply_columns() */
    block_terms terms[TILE];
} block_tokens;

/* n_tokens from t on. */
INLINE block_tokens tokens_of_packed(const block_format *f, const packed_block *x, int t,
                                     int n_tokens) {
    block_tokens tokens = {
        .q = x->q[t], .sum = {f->has_mult ? x->half_sum[0] + t : x->sum + t, x->half_sum[1] + t}};
    for (int j = 0; j < n_tokens; j++) {
        tokens.terms[j] = terms_of(x, t + j);
    }
    return tokens;
}

/* acc[j][i] plus the products of block b of the i-th of n_panels panels with the j-th of n_tokens
 * tokens. */
INLINE void add_products_of_block(floats acc[TILE][PANELS], const block_format *f, products_fn *add,
                                  const bytes *const w[PANELS], const row_scales *const s[PANELS],
                                  int n_panels, int b, block_tokens x, int n_tokens) {
    ints half[2][PANELS][TILE];
    multiply_columns(half, f, add, w, n_panels, x.q, x.sum, n_tokens);
    for (int j = 0; j < n_tokens; j++) {
        for (int i = 0; i < n_panels; i++) {
            const ints halves[2] = {half[0][i][j], half[1][i][j]};
            acc[j][i] = accumulate(f, acc[j][i], halves, s[i], b, x.terms[j]);
        }
    }
}

/* Adds the panels' n blocks times those of n_tokens (at most TILE) tokens from t on. */
INLINE void sweep(floats acc[][PANELS], const block_format *f, const panel p[PANELS], int n,
                  const packed_block *x, int t, int n_tokens) {
    floats total[TILE][PANELS];
    for (int i = 0; i < n_tokens * PANELS; i++) {
        total[i / PANELS][i % PANELS] = acc[i / PANELS][i % PANELS];
    }
    for (int b = 0; b < n; b++, x++) {
        const bytes *w[PANELS];
        const row_scales *s[PANELS];
        for (int i = 0; i < PANELS; i++) {
            w[i] = p[i].quants[b];
            s[i] = &p[i].scales;
        }
        add_products_of_block(total, f, add_panel_products, w, s, PANELS, b,
                              tokens_of_packed(f, x, t, n_tokens), n_tokens);
    }
    for (int i = 0; i < n_tokens * PANELS; i++) {
        acc[i / PANELS][i % PANELS] = total[i / PANELS][i % PANELS];
    }
}

/* ---- Stream, of a few tokens ---- */

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
                                  tokens_of_packed(f, x, t, TILE), TILE);
            t += TILE;
        } else if (n_left >= 2) {
            add_products_of_block(s->acc + t, f, add_products, w, scales, 1, b,
                                  tokens_of_packed(f, x, t, 2), 2);
            t += 2;
        } else {
            add_products_of_block(s->acc + t, f, add_products, w, scales, 1, b,
                                  tokens_of_packed(f, x, t, 1), 1);
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

/* A span from block b0 on of ROWS rows from r on. */
typedef void unpack_fn(panel *p, const weight_rows *w, int r, int b0);

INLINE void unpack_rows(panel *p, const weight_rows *w, int r, int b0) {
    const block_format *f = w->format;
    const uint8_t *row[ROWS];
    point_at_rows(row, w->w + b0 / f->sub_blocks * f->block_bytes, w->row_bytes, r, w->n_rows);
    unpack_panel(p, f, row, span_at(f, b0, w->n_blocks),
                 prefetch_distance(f, b0, w->n_blocks, 1, BLOCK_ROWS, w->row_bytes));
}

/* The span's blocks, from b0 on, of all tokens. */
INLINE void sweep_span(workspace *work, const block_format *f, int n_tiles, int b0, int n,
                       const packed_block *x, int n_tokens, int n_blocks) {
    for (int t = 0; t < n_tokens;) {
        const packed_block *group = x + (size_t)(t / CE_PACK_TOKENS) * n_blocks + b0;
        const int first = t % CE_PACK_TOKENS, n_left = n_tokens - t;
        for (int i = 0; i < n_tiles; i++) {
            if (n_left >= TILE) {
                sweep(work->acc[i] + t, f, work->panels[i], n, group, first, TILE);
            } else {
                sweep(work->acc[i] + t, f, work->panels[i], n, group, first, 1);
            }
        }
        t += n_left >= TILE ? TILE : 1;
    }
}

/* At most BLOCK_ROWS rows times BLOCK_TOKENS tokens. */
INLINE void multiply_block(workspace *work, const block_format *f, unpack_fn *unpack, float *y,
                           size_t y_stride, weight_rows w, const packed_block *x, int n_tokens) {
    const int n_tiles = (w.n_rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int i = 0; i < n_tiles; i++) {
        memset(work->acc[i], 0, n_tokens * sizeof work->acc[i][0]);
    }
    for (int b0 = 0; b0 < w.n_blocks; b0 += SPAN) {
        for (int i = 0; i < n_tiles * PANELS; i++) {
            unpack(&work->panels[i / PANELS][i % PANELS], &w, i * ROWS, b0);
        }
        sweep_span(work, f, n_tiles, b0, span_at(f, b0, w.n_blocks), x, n_tokens, w.n_blocks);
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int r = 0; r < w.n_rows; r += ROWS) {
            store_rows(y + t * y_stride + r, work->acc[r / TILE_ROWS][t][r / ROWS % PANELS],
                       w.n_rows - r);
        }
    }
}

INLINE void matmul_panels(const block_format *f, unpack_fn *unpack, float *y, size_t y_stride,
                          weight_rows w, const packed_block *x, int n_tokens, workspace *work) {
    for (int t = 0; t < n_tokens; t += BLOCK_TOKENS) {
        for (int r = 0; r < w.n_rows; r += BLOCK_ROWS) {
            weight_rows block = w;
            block.w += r * w.row_bytes;
            block.n_rows = min_int(BLOCK_ROWS, w.n_rows - r);
            multiply_block(work, f, unpack, y + t * y_stride + r, y_stride, block,
                           x + (size_t)(t / CE_PACK_TOKENS) * w.n_blocks,
                           min_int(BLOCK_TOKENS, n_tokens - t));
        }
    }
}

/* ---- The kernels ---- */

#define FOR_BLOCK_TYPES(DO)                                                                        \
    DO(Q4_0, q4_0)                                                                                 \
    DO(Q4_1, q4_1)                                                                                 \
    DO(Q5_0, q5_0)                                                                                 \
    DO(Q5_1, q5_1)                                                                                 \
    DO(Q8_0, q8_0)                                                                                 \
    DO(Q2_K, q2_K)                                                                                 \
    DO(Q3_K, q3_K)                                                                                 \
    DO(Q4_K, q4_K)                                                                                 \
    DO(Q5_K, q5_K)                                                                                 \
    DO(Q6_K, q6_K)                                                                                 \
    DO(IQ4_NL, iq4_nl)                                                                             \
    DO(IQ4_XS, iq4_xs)                                                                             \
    DO(IQ3_XXS, iq3_xxs)                                                                           \
    DO(IQ3_S, iq3_s)                                                                               \
    DO(IQ2_XXS, iq2_xxs)                                                                           \
    DO(IQ2_XS, iq2_xs)                                                                             \
    DO(IQ2_S, iq2_s)                                                                               \
    DO(IQ1_S, iq1_s)                                                                               \
    DO(IQ1_M, iq1_m)

#define DEFINE_MATMUL(TYPE, type)                                                                  \
    static void matmul_##type(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols,              \
                              void *work) {                                                        \
        if (n_tokens < token_packing.min_tokens) {                                                 \
            matmul_stream(&format_##type, y, w, w_row_bytes, n_rows, x, n_cols, work);             \
            return;                                                                                \
        }                                                                                          \
        const weight_rows rows = {w, w_row_bytes, n_rows, n_cols / CE_QK, &format_##type};         \
        if (n_tokens <= ROW_STREAM_TOKENS) {                                                       \
            matmul_stream_few(&format_##type, y, y_stride, rows, x->packed, n_tokens);             \
        } else {                                                                                   \
            matmul_panels(&format_##type, unpack_rows, y, y_stride, rows, x->packed, n_tokens,     \
                          work);                                                                   \
        }                                                                                          \
    }

FOR_BLOCK_TYPES(DEFINE_MATMUL)

#define OVERLAY_BLOCK_TYPE(TYPE, type)                                                             \
    OVERLAY_MATMUL(k, TIER, CE_TYPE_##TYPE, type, &token_packing);

static void overlay_block_types(ce_kernels *k) { FOR_BLOCK_TYPES(OVERLAY_BLOCK_TYPE) }

#endif
