/* AMX matmuls of the block types, for prompts.
 *
 * Weights and activations are rounded to bf16, the weight with its scale and min applied:
 *     w = bf16(fma(q, scale, -min)),   x = bf16(x)
 * and a tile of 16 rows times 16 tokens stays in float32 over all columns, 32 at a time in
 * ascending order. How tdpbf16ps adds is the hardware's, and the same for every element.
 *
 * Weights are the left operand, so that their rows stay as they are; activations are packed once
 * for all rows, by pack_tokens. Blocking: the panel of 32 rows times 512 columns that is
 * dequantized stays in L1, the same columns of 512 tokens stay in L2 with the sums of 128 rows.
 * Rows beyond the last repeat it, tokens beyond the last are zeros; neither is stored. */
#include "amx.h"
#include "amx_tiles.h"
#include "avx512vnni_rows.h"
#include "repacked_blocks.h"
#include "rows_blocks.h"

enum {
    PANEL_ROWS = 2 * TILE_SIDE,
    PANEL_COLS = 512,
    PANEL_TILES = PANEL_COLS / TILE_COLS,
    BLOCK_ROWS = 128,
    BLOCK_TOKENS = 512,
    BLOCK_GROUPS = BLOCK_TOKENS / TILE_SIDE,
    CACHE_LINE = 64
};

/* ---- Activations ---- */

static void pack_tokens(void *packed, const ce_acts *x, int n_tokens, int n_cols) {
    uint16_t *to = packed;
    for (int c = 0; c < n_cols; c += TILE_COLS) {
        tile_rows v;
        for (int t = 0; t < TILE_SIDE; t++) {
            const float *at = x->f32 + (size_t)t * n_cols + c;
            v[t] = t < n_tokens ? to_bf16(_mm512_loadu_ps(at), _mm512_loadu_ps(at + 16))
                                : _mm512_setzero_si512();
        }
        transpose_tile(v);
        memcpy(to + (size_t)c * TILE_SIDE, v, TILE_BYTES);
    }
}

/* ---- Weights ---- */

/* w = fma(q, factor, term) for the unsigned q of sixteen rows; [h]: columns 16 h ... 16 h + 15,
 * and [0] all 32 where the type has one scale for them. */
typedef struct {
    float factor[SPAN][2][ROWS], term[SPAN][2][ROWS];
} row_factors;

INLINE void find_factors(row_factors *to, const block_format *f, const row_scales *s, int n) {
    for (int b = 0; b < n; b++) {
        for (int h = 0; h < (f->has_mult ? 2 : 1); h++) {
            const floats factor = f->has_mult ? s->scale[b] * s->mult[b][h] : s->scale[b];
            const floats offset = (floats){0} + (float)offset_of(f);
            const floats min = f->has_min ? s->min[b] : (floats){0};
            const floats term = -multiply_add(factor, offset, min);
            memcpy(to->factor[b][h], &factor, sizeof factor);
            memcpy(to->term[b][h], &term, sizeof term);
        }
    }
}

/* What the quants q stand for in row i, with the scales of half h. */
INLINE __m512 weights_of(__m512 q, const row_factors *s, int b, int h, int i) {
    return _mm512_fmadd_ps(q, _mm512_set1_ps(s->factor[b][h][i]), _mm512_set1_ps(s->term[b][h][i]));
}

INLINE __m512 widen(__m128i q) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q)); }

INLINE __m512i dequantize_row(const block_format *f, __m256i q, const row_factors *s, int b,
                              int i) {
    const int high = f->has_mult;
    return to_bf16(weights_of(widen(_mm256_castsi256_si128(q)), s, b, 0, i),
                   weights_of(widen(_mm256_extracti128_si256(q, 1)), s, b, high, i));
}

/* The entries of a table of 32 that q names. */
INLINE __m512i entries(__m512i table, __m256i q) {
    return _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(q), table);
}

/* Rows i and j of block b. Where quants are few, so are the weights that they can stand for: these
 * are computed once and looked up, in half the instructions and with the same result. */
INLINE void dequantize_pair(tile_rows to, const block_format *f, __m256i qi, __m256i qj,
                            const row_factors *s, int b, int i, int j) {
    const __m512 few = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 more = few + 16;
    if (f->has_mult || f->max_quant >= 32) {
        to[i] = dequantize_row(f, qi, s, b, i);
        to[j] = dequantize_row(f, qj, s, b, j);
    } else if (f->max_quant >= 16) {
        to[i] = entries(to_bf16(weights_of(few, s, b, 0, i), weights_of(more, s, b, 0, i)), qi);
        to[j] = entries(to_bf16(weights_of(few, s, b, 0, j), weights_of(more, s, b, 0, j)), qj);
    } else { /* one table for both */
        const __m512i table = to_bf16(weights_of(few, s, b, 0, i), weights_of(few, s, b, 0, j));
        to[i] = entries(table, qi);
        to[j] = entries(table, _mm256_add_epi8(qj, _mm256_set1_epi8(16)));
    }
}

/* A panel takes a few hundred bytes of each row, too few for the hardware's prefetcher: as a row's
 * span is dequantized, line i of the same span of the panel right of it is fetched. */
INLINE void prefetch_line(const block_format *f, const uint8_t *row, int i) {
    const size_t panel_bytes = PANEL_COLS / CE_QK / SPAN * span_bytes(f);
    const size_t at = (size_t)i * CACHE_LINE;
    if (at < span_bytes(f)) {
        _mm_prefetch((const char *)row + panel_bytes + at, _MM_HINT_T1);
    }
}

/* n blocks (at most SPAN) of sixteen rows to as many tiles. */
INLINE void dequantize_span(tile_rows *to, const block_format *f, const uint8_t *const row[ROWS],
                            int n) {
    row_scales scales;
    f->scales(&scales, row, n);
    row_factors s;
    find_factors(&s, f, &scales, n);
#pragma GCC unroll 8 /* SPAN: makes the shifts in quants() constants */
    for (int b = 0; b < n; b++) {
        for (int k = 0; k < VECTORS; k++) {
            const int i = row_of(k, 0), j = row_of(k, 1);
            prefetch_line(f, row[i], b);
            prefetch_line(f, row[j], b);
            const __m512i q = (__m512i)quants_at(f, row, k, b);
            dequantize_pair(to[b], f, _mm512_castsi512_si256(q), _mm512_extracti64x4_epi64(q, 1),
                            &s, b, i, j);
        }
    }
}

typedef struct {
    tile_rows half[2][PANEL_TILES]; /* rows 0 ... 15 and 16 ... 31 */
} panel;

/* PANEL_ROWS rows from r on, n_tiles tiles from block b0 on. */
typedef void dequantize_fn(panel *p, const weight_rows *w, int r, int b0, int n_tiles);

INLINE void dequantize_rows(panel *p, const weight_rows *w, int r, int b0, int n_tiles) {
    const block_format *f = w->format;
    for (int h = 0; h < 2; h++) {
        const uint8_t *row[ROWS];
        point_at_rows(row, w->w + b0 / f->sub_blocks * f->block_bytes, w->row_bytes, r + h * ROWS,
                      w->n_rows);
        for (int b = 0; b < n_tiles; b += SPAN) {
            dequantize_span(p->half[h] + b, f, row, span_at(f, b, n_tiles));
            advance_rows(row, span_bytes(f));
        }
    }
}

/* As above, the b-th part of the span of the panel right of this one. */
INLINE void prefetch_repacked(const block_format *f, repacked_span span, int b) {
    const int panel_bytes = PANEL_COLS / CE_REPACK_COLS * (int)group_span_bytes(f);
    const int n_lines = (int)group_span_bytes(f) / CACHE_LINE;
    for (int i = b * n_lines / SPAN; i < (b + 1) * n_lines / SPAN; i++) {
        _mm_prefetch((const char *)span.words + panel_bytes + i * CACHE_LINE, _MM_HINT_T1);
    }
}

INLINE void dequantize_repacked_span(tile_rows *to, const repacked_format *format,
                                     repacked_span span) {
    row_scales scales;
    format->scales(&scales, span.halves, span.words);
    row_factors s;
    find_factors(&s, format->f, &scales, SPAN);
#pragma GCC unroll 8 /* SPAN: makes the shifts in columns() constants */
    for (int b = 0; b < SPAN; b++) {
        bytes columns[GROUPS], rows[VECTORS];
        prefetch_repacked(format->f, span, b);
        for (int g = 0; g < GROUPS; g++) {
            columns[g] = columns_at(format, span, b, g);
        }
        transpose_back(rows, columns);
        for (int k = 0; k < VECTORS; k++) {
            const __m512i q = (__m512i)rows[k];
            dequantize_pair(to[b], format->f, _mm512_castsi512_si256(q),
                            _mm512_extracti64x4_epi64(q, 1), &s, b, row_of(k, 0), row_of(k, 1));
        }
    }
}

INLINE void dequantize_repacked(panel *p, const weight_rows *w, int r, int b0, int n_tiles) {
    for (int h = 0; h < 2; h++) {
        for (int b = 0; b < n_tiles; b += SPAN) {
            dequantize_repacked_span(p->half[h] + b, w->format, span_of(w, r + h * ROWS, b0 + b));
        }
    }
}

/* ---- Products ---- */

/* sums[h] += half h of the panel times a group of sixteen tokens.
 *
 * Four tile registers, not eight: while the core's other hardware thread is busy, few physical ones
 * remain to rename to, and each that is held makes loads wait for products. Two sums with a third
 * load more are then twice as fast as a square of four, and no slower alone. The tokens pass
 * through L1 but once for this panel: the hint keeps them from driving it out. */
static void multiply_group(tile_rows sums[2], const panel *p, const uint16_t *x, int n_tiles) {
    TILE_LOAD(0, sums[0]);
    TILE_LOAD(1, sums[1]);
    for (int i = 0; i < n_tiles; i++) {
        TILE_LOAD_ONCE(2, (const char *)x + i * TILE_BYTES);
        TILE_LOAD(3, p->half[0][i]);
        TILE_MULTIPLY_BF16(0, 3, 2);
        TILE_LOAD(3, p->half[1][i]);
        TILE_MULTIPLY_BF16(1, 3, 2);
    }
    TILE_STORE(sums[0], 0);
    TILE_STORE(sums[1], 1);
}

/* [panel of the block][group of tokens][half of the panel] */
typedef tile_rows block_sums[BLOCK_ROWS / PANEL_ROWS][BLOCK_GROUPS][2];

typedef struct {
    block_sums sums;
    panel panel;
} workspace;

_Static_assert(sizeof(workspace) <= CE_WORK_BYTES, "the workspace of a block");

static void store_tile(float *y, size_t y_stride, const tile_rows sums, int n_rows, int n_tokens) {
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
INLINE void multiply_block(workspace *work, dequantize_fn *dequantize, float *y, size_t y_stride,
                           weight_rows w, const uint16_t *x, int n_tokens) {
    const int n_groups = (n_tokens + TILE_SIDE - 1) / TILE_SIDE, n_cols = w.n_blocks * CE_QK;
    const size_t group_size = (size_t)n_cols * TILE_SIDE;
    for (int r = 0; r < w.n_rows; r += PANEL_ROWS) {
        memset(work->sums[r / PANEL_ROWS], 0, n_groups * sizeof work->sums[0][0]);
    }
    for (int c = 0; c < n_cols; c += PANEL_COLS) {
        const int n_tiles = min_int(PANEL_COLS, n_cols - c) / TILE_COLS;
        for (int r = 0; r < w.n_rows; r += PANEL_ROWS) {
            dequantize(&work->panel, &w, r, c / CE_QK, n_tiles);
            for (int g = 0; g < n_groups; g++) {
                multiply_group(work->sums[r / PANEL_ROWS][g], &work->panel,
                               x + g * group_size + (size_t)c * TILE_SIDE, n_tiles);
            }
        }
    }
    store_block(y, y_stride, work->sums, w.n_rows, n_tokens);
}

INLINE void matmul(dequantize_fn *dequantize, float *y, size_t y_stride, weight_rows w,
                   const uint16_t *x, int n_tokens, workspace *work) {
    tiles_configure();
    for (int t = 0; t < n_tokens; t += BLOCK_TOKENS) {
        for (int r = 0; r < w.n_rows; r += BLOCK_ROWS) {
            weight_rows block = w;
            block.w += r * w.row_bytes;
            block.n_rows = min_int(BLOCK_ROWS, w.n_rows - r);
            multiply_block(work, dequantize, y + t * y_stride + r, y_stride, block,
                           x + (size_t)t * w.n_blocks * CE_QK, min_int(BLOCK_TOKENS, n_tokens - t));
        }
    }
    tiles_release();
}

/* ---- The kernels ---- */

static const ce_packing token_packing = {
    .min_tokens = 1, .block_bytes = TILE_BYTES, .from_f32 = true, .pack = pack_tokens};

#define DEFINE_MATMUL(name, format, dequantize)                                                    \
    static void matmul_##name(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols,              \
                              void *work) {                                                        \
        const weight_rows rows = {w, w_row_bytes, n_rows, n_cols / CE_QK, &(format)};              \
        matmul(dequantize, y, y_stride, rows, x->packed, n_tokens, work);                          \
    }

#define DEFINE_BOTH(TYPE, type)                                                                    \
    DEFINE_MATMUL(type, format_##type, dequantize_rows)                                            \
    DEFINE_MATMUL(repacked_##type, repacked_##type, dequantize_repacked)

FOR_REPACKED_TYPES(DEFINE_BOTH)

#define OVERLAY_BOTH(TYPE, type)                                                                   \
    k->matmul[CE_PHASE_PROMPT][CE_TYPE_##TYPE] =                                                   \
        (ce_matmul_kernel){#type "/amx/prompt", matmul_##type, &token_packing};                    \
    k->repacked[CE_PHASE_PROMPT][CE_TYPE_##TYPE] =                                                 \
        (ce_matmul_kernel){#type "/amx/prompt, repacked", matmul_repacked_##type, &token_packing};

void ce_amx_matmul(ce_kernels *k) { FOR_REPACKED_TYPES(OVERLAY_BOTH) }
