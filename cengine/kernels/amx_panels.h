/* What the AMX matmuls have in common: how they go through rows, columns and tokens.
 *
 * Weights are the left operand, so that their rows stay as they are; activations are packed once
 * for all rows. A panel is so many columns of 32 rows, made ready for tiles: it stays in L1, while
 * the same columns of 256 tokens stay in L2 with the sums of 128 rows. Rows beyond the last repeat
 * it, tokens beyond the last are zeros; neither is stored. */
#ifndef CE_AMX_PANELS_H
#define CE_AMX_PANELS_H

#include "kernels.h"

#include "amx_tiles.h"
#include "avx2_points.h"
#include "avx512vnni_rows.h"
#include "points_in_rows.h"
#include "repacked_blocks.h"
#include "rows_blocks.h"

enum {
    PANEL_ROWS = 2 * TILE_SIDE,
    PANEL_BYTES = 32 * 1024, /* at most */
    BLOCK_ROWS = 128,
    BLOCK_TOKENS = 256,
    BLOCK_GROUPS = BLOCK_TOKENS / TILE_SIDE
};

typedef float tile_floats[TILE_SIDE][TILE_SIDE];

/* How a kernel multiplies. Blocks are those of 32 columns; b0 is a multiple of panel_blocks. */
typedef struct {
    int panel_blocks;
    /* Bytes of sixteen packed tokens. */
    size_t (*packed_bytes)(int n_blocks);
    /* y[h] += half h of the panel times sixteen tokens; x: packed, from the panel's columns on. */
    void (*multiply)(tile_floats y[2], const void *panel, const void *x, int n_blocks);
} panel_kernel;

/* Rows r ... r + PANEL_ROWS - 1 and the blocks [b0, b_end) to a panel. */
typedef void fill_fn(void *panel, const weight_rows *w, int r, int b0, int b_end);

/* ---- Prefetches ---- */

/* A panel takes a few hundred bytes of each row, too few for the hardware's prefetcher: as a row's
 * span is read, line i of the same span of the panel right of it is fetched. */
INLINE void prefetch_right(const block_format *f, const uint8_t *row, int panel_blocks, int i) {
    const size_t panel_bytes = panel_blocks / SPAN * span_bytes(f), at = (size_t)i * CACHE_LINE;
    if (at < span_bytes(f)) {
        _mm_prefetch((const char *)row + panel_bytes + at, _MM_HINT_T1);
    }
}

/* As above, the b-th part of the span of the panel right of this one. */
INLINE void prefetch_repacked(const block_format *f, repacked_span span, int panel_blocks, int b) {
    const uint8_t *right = span.words + panel_blocks / SPAN * group_span_bytes(f);
    prefetch_span(f, right, b, SPAN, false);
}

/* ---- Blocks of rows and tokens ---- */

/* [panel of the block][group of tokens][half of the panel] */
typedef tile_floats block_sums[BLOCK_ROWS / PANEL_ROWS][BLOCK_GROUPS][2];

typedef struct {
    block_sums sums;
    uint8_t panel[PANEL_BYTES];
} workspace;

_Static_assert(sizeof(workspace) <= CE_WORK_BYTES, "the workspace of a block");

static void store_tile(float *y, size_t y_stride, const tile_floats sums, int n_rows,
                       int n_tokens) {
    tile_rows v;
    memcpy(v, sums, sizeof v);
    transpose_tile(v);
    const __mmask16 mask = n_rows >= TILE_SIDE ? 0xffff : (__mmask16)((1 << n_rows) - 1);
    for (int t = 0; t < min_int(n_tokens, TILE_SIDE); t++) {
        _mm512_mask_storeu_epi32(y + t * y_stride, mask, v[t]);
    }
}

static void store_block(float *y, size_t y_stride, block_sums sums, int n_rows, int n_tokens) {
    for (int r = 0; r < n_rows; r += TILE_SIDE) {
        for (int t = 0; t < n_tokens; t += TILE_SIDE) {
            store_tile(y + t * y_stride + r, y_stride,
                       sums[r / PANEL_ROWS][t / TILE_SIDE][r / TILE_SIDE % 2], n_rows - r,
                       n_tokens - t);
        }
    }
}

/* At most BLOCK_ROWS rows times BLOCK_TOKENS tokens, packed at x. */
INLINE void multiply_block(const panel_kernel *k, fill_fn *fill, workspace *work, float *y,
                           size_t y_stride, weight_rows w, const uint8_t *x, int n_tokens) {
    const int n_groups = (n_tokens + TILE_SIDE - 1) / TILE_SIDE;
    const size_t group_bytes = k->packed_bytes(w.n_blocks);
    for (int r = 0; r < w.n_rows; r += PANEL_ROWS) {
        memset(work->sums[r / PANEL_ROWS], 0, n_groups * sizeof work->sums[0][0]);
    }
    for (int b0 = 0; b0 < w.n_blocks; b0 += k->panel_blocks) {
        const int b_end = min_int(b0 + k->panel_blocks, w.n_blocks);
        const uint8_t *columns = x + k->packed_bytes(b0);
        for (int r = 0; r < w.n_rows; r += PANEL_ROWS) {
            fill(work->panel, &w, r, b0, b_end);
            for (int g = 0; g < n_groups; g++) {
                k->multiply(work->sums[r / PANEL_ROWS][g], work->panel, columns + g * group_bytes,
                            b_end - b0);
            }
        }
    }
    store_block(y, y_stride, work->sums, w.n_rows, n_tokens);
}

INLINE void multiply_panels(const panel_kernel *k, fill_fn *fill, float *y, size_t y_stride,
                            weight_rows w, const void *x, int n_tokens, workspace *work) {
    tiles_configure();
    for (int t = 0; t < n_tokens; t += BLOCK_TOKENS) {
        for (int r = 0; r < w.n_rows; r += BLOCK_ROWS) {
            weight_rows block = w;
            block.w += r * w.row_bytes;
            block.n_rows = min_int(BLOCK_ROWS, w.n_rows - r);
            multiply_block(k, fill, work, y + t * y_stride + r, y_stride, block,
                           (const uint8_t *)x + t / TILE_SIDE * k->packed_bytes(w.n_blocks),
                           min_int(BLOCK_TOKENS, n_tokens - t));
        }
    }
    tiles_release();
}

/* ---- The kernels ---- */

#define DEFINE_MATMUL(name, format, fill)                                                          \
    static void matmul_##name(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols,              \
                              void *work) {                                                        \
        const weight_rows rows = {w, w_row_bytes, n_rows, n_cols / CE_QK, &(format)};              \
        multiply_panels(&kernel, fill, y, y_stride, rows, x->packed, n_tokens, work);              \
    }

/* Of the file's rows and of repacked ones. */
#define DEFINE_BOTH(TYPE, type)                                                                    \
    DEFINE_MATMUL(type, format_##type, fill_from_rows)                                             \
    DEFINE_MATMUL(repacked_##type, repacked_##type, fill_from_repacked)

#define OVERLAY_BOTH(TYPE, type)                                                                   \
    k->matmul[CE_PHASE_PROMPT][CE_TYPE_##TYPE] =                                                   \
        (ce_matmul_kernel){#type "/amx/prompt", matmul_##type, &token_packing};                    \
    k->repacked[CE_PHASE_PROMPT][CE_TYPE_##TYPE] =                                                 \
        (ce_matmul_kernel){#type "/amx/prompt, repacked", matmul_repacked_##type, &token_packing};

#endif
