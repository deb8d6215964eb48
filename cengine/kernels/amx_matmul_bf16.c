/* AMX matmuls in bf16, for prompts: of the block types that other engines multiply in int8 with a
 * scale for 32 columns, which a tile cannot (decision 9).
 *
 * Weights and activations are rounded to bf16, the weight with its scale applied:
 *     w = bf16(fma(q, scale, -offset * scale)),   x = bf16(x)
 * and a tile of 16 rows times 16 tokens stays in float32 over all columns, 32 at a time in
 * ascending order. How tdpbf16ps adds is the hardware's, and the same for every element. */
#include "amx.h"
#include "amx_panels.h"

enum { PANEL_BLOCKS = 16 };

/* [half: rows 0 ... 15, rows 16 ... 31][block] */
typedef tile_rows bf16_panel[2][PANEL_BLOCKS];

_Static_assert(sizeof(bf16_panel) <= PANEL_BYTES, "a panel");

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

static size_t packed_bytes(int n_blocks) { return (size_t)n_blocks * TILE_BYTES; }

/* ---- Weights ---- */

/* w = fma(q, factor, term) for the unsigned q of sixteen rows. */
typedef struct {
    float factor[SPAN][ROWS], term[SPAN][ROWS];
} row_factors;

INLINE void find_factors(row_factors *to, const block_format *f, const row_scales *s, int n) {
    const floats offset = (floats){0} + (float)offset_of(f);
    for (int b = 0; b < n; b++) {
        const floats term = -(s->scale[b] * offset);
        memcpy(to->factor[b], &s->scale[b], sizeof to->factor[b]);
        memcpy(to->term[b], &term, sizeof to->term[b]);
    }
}

/* What the quants q stand for in row i. */
INLINE __m512 weights_of(__m512 q, const row_factors *s, int b, int i) {
    return _mm512_fmadd_ps(q, _mm512_set1_ps(s->factor[b][i]), _mm512_set1_ps(s->term[b][i]));
}

INLINE __m512 widen(__m128i q) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q)); }

INLINE __m512i dequantize_row(__m256i q, const row_factors *s, int b, int i) {
    return to_bf16(weights_of(widen(_mm256_castsi256_si128(q)), s, b, i),
                   weights_of(widen(_mm256_extracti128_si256(q, 1)), s, b, i));
}

/* The entries of a table of 32 that q names. */
INLINE __m512i entries(__m512i table, __m256i q) {
    return _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(q), table);
}

/* Rows i and j of block b. Where quants are few, so are the weights that they can stand for: these
 * are computed once and looked up, in half the instructions and with the same result. */
INLINE void dequantize_pair(tile_rows to, const block_format *f, __m512i q, const row_factors *s,
                            int b, int i, int j) {
    const __m512 few = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i qi = _mm512_castsi512_si256(q), qj = _mm512_extracti64x4_epi64(q, 1);
    if (f->max_quant < 16) { /* one table for both */
        const __m512i table = to_bf16(weights_of(few, s, b, i), weights_of(few, s, b, j));
        to[i] = entries(table, qi);
        to[j] = entries(table, _mm256_add_epi8(qj, _mm256_set1_epi8(16)));
    } else {
        to[i] = dequantize_row(qi, s, b, i);
        to[j] = dequantize_row(qj, s, b, j);
    }
}

/* n blocks (at most SPAN) of sixteen rows to as many tiles. */
INLINE void dequantize_span(tile_rows *to, const block_format *f, const uint8_t *const row[ROWS],
                            int n) {
    row_scales scales;
    f->scales(&scales, row, n);
    row_factors s;
    find_factors(&s, f, &scales, n);
    for (int b = 0; b < n; b++) {
        for (int k = 0; k < VECTORS; k++) {
            const int i = row_of(k, 0), j = row_of(k, 1);
            prefetch_right(f, row[i], PANEL_BLOCKS, b);
            prefetch_right(f, row[j], PANEL_BLOCKS, b);
            dequantize_pair(to[b], f, (__m512i)quants_at(f, row, NULL, k, b), &s, b, i, j);
        }
    }
}

INLINE void fill_from_rows(void *panel, const weight_rows *w, int r, int b0, int b_end) {
    bf16_panel *p = panel;
    const block_format *f = w->format;
    for (int h = 0; h < 2; h++) {
        const uint8_t *row[ROWS];
        point_at_rows(row, w->w + b0 / f->sub_blocks * f->block_bytes, w->row_bytes, r + h * ROWS,
                      w->n_rows);
        for (int b = b0; b < b_end; b += SPAN) {
            dequantize_span((*p)[h] + b - b0, f, row, span_at(f, b, b_end));
            advance_rows(row, span_bytes(f));
        }
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
        prefetch_repacked(format->f, span, PANEL_BLOCKS, b);
        for (int g = 0; g < GROUPS; g++) {
            columns[g] = columns_at(format, span, b, g);
        }
        transpose_back(rows, columns);
        for (int k = 0; k < VECTORS; k++) {
            dequantize_pair(to[b], format->f, (__m512i)rows[k], &s, b, row_of(k, 0), row_of(k, 1));
        }
    }
}

INLINE void fill_from_repacked(void *panel, const weight_rows *w, int r, int b0, int b_end) {
    bf16_panel *p = panel;
    for (int h = 0; h < 2; h++) {
        for (int b = b0; b < b_end; b += SPAN) {
            dequantize_repacked_span((*p)[h] + b - b0, w->format, span_of(w, r + h * ROWS, b));
        }
    }
}

/* ---- Products ---- */

/* Four tile registers, not eight: while the core's other hardware thread is busy, few physical ones
 * remain to rename to, and each that is held makes loads wait for products. Two sums with a third
 * load more are then twice as fast as a square of four, and no slower alone. The tokens pass
 * through L1 but once for this panel: the hint keeps them from driving it out. */
static void multiply(tile_floats y[2], const void *panel, const void *x, int n_blocks) {
    const bf16_panel *p = panel;
    TILE_LOAD(0, y[0]);
    TILE_LOAD(1, y[1]);
    for (int b = 0; b < n_blocks; b++) {
        TILE_LOAD_ONCE(2, (const char *)x + b * TILE_BYTES);
        TILE_LOAD(3, (*p)[0][b]);
        TILE_MULTIPLY_BF16(0, 3, 2);
        TILE_LOAD(3, (*p)[1][b]);
        TILE_MULTIPLY_BF16(1, 3, 2);
    }
    TILE_STORE(y[0], 0);
    TILE_STORE(y[1], 1);
}

/* ---- The kernels ---- */

static const ce_packing token_packing = {
    .min_tokens = 1, .block_bytes = TILE_BYTES, .from_f32 = true, .pack = pack_tokens};

static const panel_kernel kernel = {PANEL_BLOCKS, packed_bytes, multiply};

DEFINE_BOTH(Q4_0, q4_0)
DEFINE_BOTH(Q8_0, q8_0)

void ce_amx_matmul_bf16(ce_kernels *k) {
    OVERLAY_BOTH(Q4_0, q4_0)
    OVERLAY_BOTH(Q8_0, q8_0)
}
