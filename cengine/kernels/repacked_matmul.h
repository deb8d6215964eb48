/* The matmuls of repacked weights (repack.h). They have the order of accumulation and the panels of
 * rows, so that their results are those of the rows as the file has them, to the last bit. Included
 * as rows_matmul.h is. */
#ifndef CE_REPACKED_MATMUL_H
#define CE_REPACKED_MATMUL_H

#include "overlay.h"
#include "repacked_blocks.h"
#include "rows_panels.h"

/* ---- Stream ---- */

/* How far ahead to fetch, in whole spans: memory gives some kilobytes while a line is under way. */
enum { FAR_BYTES = 6 * 1024, MIN_FAR_SPANS = 2 };

INLINE size_t far_spans(size_t span) {
    const size_t n = (FAR_BYTES + span - 1) / span;
    return n > MIN_FAR_SPANS ? n : MIN_FAR_SPANS;
}

/* The b-th part of what is to come: a span halfway there into L1, and the far one, to hide its
 * latency, into L2, or on AMD into L1 as well, where it comes sooner. A line of each in turn:
 * bursts would find no free line buffers. The hardware's prefetcher looks no further than a page,
 * and a core that computes does not look far itself. Less than a span ahead would be too late, as
 * words within it are not read in their order. */
INLINE void prefetch_ahead(const block_format *f, const uint8_t *words, int b, bool is_amd) {
    const size_t span = group_span_bytes(f), n_far = far_spans(span);
    const uint8_t *near = words + n_far / 2 * span, *far = words + n_far * span;
    for (size_t at = line_of_span(f, b, SPAN); at < line_of_span(f, b + 1, SPAN);
         at += CACHE_LINE) {
        prefetch_line(far + at, is_amd);
        prefetch_line(near + at, true);
    }
}

_Static_assert((int)PARTS <= (int)PANELS, "the rows of a group are multiplied together");

/* A span of ROWS rows of a group. */
typedef struct {
    repacked_span span;
    row_scales scales;
} group_part;

INLINE void load_span(group_part part[PARTS], const repacked_format *r, const uint8_t *group,
                      int b0, int n_blocks) {
    for (int i = 0; i < PARTS; i++) {
        part[i].span = part_of_group(r, group, i, b0, n_blocks);
        r->scales(&part[i].scales, part[i].span.halves, part[i].span.words);
    }
}

/* acc[j] plus the products of block b of the span with the j-th of n_tokens tokens. */
INLINE void add_block(floats acc[TILE][PANELS], const repacked_format *r,
                      const group_part part[PARTS], int b, block_tokens x, int n_tokens) {
    bytes columns[PARTS][GROUPS];
    const bytes *w[PANELS];
    const row_scales *s[PANELS];
    for (int i = 0; i < PARTS; i++) {
        for (int g = 0; g < GROUPS; g++) {
            columns[i][g] = columns_at(r, part[i].span, b, g);
        }
        w[i] = columns[i];
        s[i] = &part[i].scales;
    }
    add_products_of_block(acc, r->f, add_products, w, s, PARTS, b, x, n_tokens);
}

/* n_rows and n_cols are multiples of what a group has. */
INLINE void repacked_stream(const repacked_format *r, float *y, const uint8_t *w, int n_rows,
                            const ce_acts *x, int n_cols, bool is_amd) {
    const int n_blocks = n_cols / CE_QK;
    for (int row = 0; row < n_rows; row += CE_REPACK_ROWS) {
        floats acc[TILE][PANELS] = {{{0}}};
        for (int b0 = 0; b0 < n_blocks; b0 += SPAN) {
            group_part part[PARTS];
            load_span(part, r, w, b0, n_blocks);
#pragma GCC unroll 8 /* SPAN: makes the shifts in columns() constants */
            for (int b = 0; b < SPAN; b++) {
                prefetch_ahead(r->f, part[0].span.words, b, is_amd);
                add_block(acc, r, part, b, block_of_token(x, b0 + b), 1);
            }
        }
        w += (size_t)(n_blocks / SPAN) * group_span_bytes(r->f);
        for (int i = 0; i < PARTS; i++) {
            store_rows(y + row + i * ROWS, acc[0][i], ROWS);
        }
    }
}

/* ---- Stream, of a few tokens ---- */

/* acc plus the products of a span with n_tokens (at most TILE) tokens from t on. Columns are
 * unpacked to registers for these tokens alone, and from L1 after the first ones: as panels,
 * they would be stored and read again, which a few tokens do not repay. */
INLINE void add_span(floats acc[][PARTS], const repacked_format *r, const group_part part[PARTS],
                     const packed_block *x, int t, int n_tokens, bool is_amd) {
    floats total[TILE][PANELS];
    for (int i = 0; i < n_tokens * PARTS; i++) {
        total[i / PARTS][i % PARTS] = acc[t + i / PARTS][i % PARTS];
    }
#pragma GCC unroll 8 /* SPAN */
    for (int b = 0; b < SPAN; b++) {
        if (t == 0) {
            prefetch_ahead(r->f, part[0].span.words, b, is_amd);
        }
        add_block(total, r, part, b, tokens_of_packed(x + b, t, n_tokens), n_tokens);
    }
    for (int i = 0; i < n_tokens * PARTS; i++) {
        acc[t + i / PARTS][i % PARTS] = total[i / PARTS][i % PARTS];
    }
}

_Static_assert((int)REPACKED_STREAM_TOKENS <= (int)CE_PACK_TOKENS, "they are packed side by side");

/* n_tokens: at most REPACKED_STREAM_TOKENS. */
INLINE void repacked_stream_few(const repacked_format *r, float *y, size_t y_stride,
                                const uint8_t *w, int n_rows, const packed_block *x, int n_tokens,
                                int n_cols, bool is_amd) {
    const int n_blocks = n_cols / CE_QK;
    for (int row = 0; row < n_rows; row += CE_REPACK_ROWS) {
        floats acc[REPACKED_STREAM_TOKENS][PARTS];
        memset(acc, 0, n_tokens * sizeof acc[0]);
        for (int b0 = 0; b0 < n_blocks; b0 += SPAN) {
            group_part part[PARTS];
            load_span(part, r, w, b0, n_blocks);
            for (int t = 0; t < n_tokens;) {
                const int n_left = n_tokens - t;
                if (n_left >= TILE) {
                    add_span(acc, r, part, x + b0, t, TILE, is_amd);
                    t += TILE;
                } else if (n_left >= 2) {
                    add_span(acc, r, part, x + b0, t, 2, is_amd);
                    t += 2;
                } else {
                    add_span(acc, r, part, x + b0, t, 1, is_amd);
                    t += 1;
                }
            }
        }
        w += (size_t)(n_blocks / SPAN) * group_span_bytes(r->f);
        for (int t = 0; t < n_tokens; t++) {
            for (int i = 0; i < PARTS; i++) {
                store_rows(y + t * y_stride + row + i * ROWS, acc[t][i], ROWS);
            }
        }
    }
}

/* ---- Panels ---- */

/* The b-th part of this part of the group's next span or, behind its last one, of the first span of
 * the group in the next block of rows. */
INLINE void prefetch_next_span(const weight_rows *w, const uint8_t *words, int part, int b0,
                               int b) {
    const repacked_format *format = w->format;
    const bool is_last = b0 + SPAN >= w->n_blocks;
    const size_t ahead = is_last ? (BLOCK_ROWS - CE_REPACK_ROWS) * w->row_bytes : 0;
    const uint8_t *next = words + group_span_bytes(format->f) + ahead;
    prefetch_span(format->f, next, part * SPAN + b, PARTS * SPAN, true);
}

/* unpack_fn */
INLINE void unpack_repacked(panel *p, const weight_rows *w, int r, int b0) {
    const repacked_format *format = w->format;
    const repacked_span span = span_of(w, r, b0);
    format->scales(&p->scales, span.halves, span.words);
#pragma GCC unroll 8 /* SPAN */
    for (int b = 0; b < SPAN; b++) {
        prefetch_next_span(w, span.words, r % CE_REPACK_ROWS / ROWS, b0, b);
        for (int g = 0; g < GROUPS; g++) {
            p->quants[b][g] = columns_at(format, span, b, g);
        }
        order_panel(p->quants[b]);
    }
}

/* ---- The kernels ---- */

#define DEFINE_REPACKED(TYPE, type)                                                                \
    static void matmul_repacked_##type(float *y, size_t y_stride, const void *w,                   \
                                       size_t w_row_bytes, int n_rows, const ce_acts *x,           \
                                       int n_tokens, int n_cols, void *work) {                     \
        if (n_tokens < token_packing.min_tokens) {                                                 \
            if (is_amd_cpu()) {                                                                    \
                repacked_stream(&repacked_##type, y, w, n_rows, x, n_cols, true);                  \
            } else {                                                                               \
                repacked_stream(&repacked_##type, y, w, n_rows, x, n_cols, false);                 \
            }                                                                                      \
        } else if (n_tokens <= REPACKED_STREAM_TOKENS) {                                           \
            repacked_stream_few(&repacked_##type, y, y_stride, w, n_rows, x->packed, n_tokens,     \
                                n_cols, is_amd_cpu());                                             \
        } else {                                                                                   \
            const weight_rows rows = {w, w_row_bytes, n_rows, n_cols / CE_QK, &repacked_##type};   \
            matmul_panels(&format_##type, unpack_repacked, y, y_stride, rows, x->packed, n_tokens, \
                          work);                                                                   \
        }                                                                                          \
    }

FOR_REPACKED_TYPES(DEFINE_REPACKED)

#define OVERLAY_REPACKED(TYPE, type)                                                               \
    overlay_phases(k->repacked, CE_TYPE_##TYPE,                                                    \
                   (ce_matmul_kernel){#type "/" TIER "/prompt, repacked", matmul_repacked_##type,  \
                                      &token_packing},                                             \
                   (ce_matmul_kernel){#type "/" TIER "/generated, repacked",                       \
                                      matmul_repacked_##type, &token_packing});

static void overlay_repacked_types(ce_kernels *k) { FOR_REPACKED_TYPES(OVERLAY_REPACKED) }

#endif
