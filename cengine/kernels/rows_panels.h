/* Several tokens: a span of BLOCK_ROWS rows is unpacked to bytes, four columns of each row side by
 * side, and swept with all tokens while it lies in L1; the sums of BLOCK_ROWS rows times
 * BLOCK_TOKENS tokens lie in L2, and the tokens, packed block by block, are read from there once
 * for all these rows. */
#ifndef CE_ROWS_PANELS_H
#define CE_ROWS_PANELS_H

#include "rows_accumulate.h"
#include "rows_spans.h"

enum { TILE_ROWS = PANELS * ROWS, BLOCK_ROWS = BLOCK_TILES * TILE_ROWS, BLOCK_TOKENS = 256 };

/* A span of ROWS rows: quants[b][g] is columns 4 g ... 4 g + 3 of block b, row by row, unless
 * order_panel() has another order. */
typedef struct {
    bytes quants[SPAN][GROUPS];
    row_scales scales;
} panel;

typedef struct {
    panel panels[BLOCK_TILES][PANELS];
    floats acc[BLOCK_TILES][BLOCK_TOKENS][PANELS];
} workspace;

_Static_assert(sizeof(workspace) <= CE_WORK_BYTES, "the workspace of the panels");

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
                              tokens_of_packed(x, t, n_tokens), n_tokens);
    }
    for (int i = 0; i < n_tokens * PANELS; i++) {
        acc[i / PANELS][i % PANELS] = total[i / PANELS][i % PANELS];
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

#endif
