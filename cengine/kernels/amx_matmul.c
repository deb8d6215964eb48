/* AMX matmuls of the block types, for prompts.
 *
 * Weights and activations are rounded to bf16, the weight with its scale and min applied:
 *     w = bf16(fma(q, scale, -min)),   x = bf16(x)
 * and a tile of 16 rows times 16 tokens stays in float32 over all columns, 32 at a time in
 * ascending order. How tdpbf16ps adds is the hardware's, and the same for every element.
 *
 * Weights are the left operand, so that their rows stay as they are; activations are packed once
 * for all rows, by pack_acts. Blocking: the panel of 32 rows times 512 columns that is dequantized
 * stays in L1, the same columns of 512 tokens stay in L2 with the sums of 128 rows. Rows beyond the
 * last repeat it, tokens beyond the last are zeros; neither is stored. */
#include "amx.h"
#include "amx_tiles.h"
#include "avx512vnni_blocks.h"

enum {
    PANEL_ROWS = 2 * TILE_SIDE,
    PANEL_COLS = 512,
    PANEL_TILES = PANEL_COLS / TILE_COLS,
    BLOCK_ROWS = 128,
    BLOCK_TOKENS = 512,
    BLOCK_GROUPS = BLOCK_TOKENS / TILE_SIDE,
    CACHE_LINE = 64
};

static inline int min_int(int a, int b) { return a < b ? a : b; }

/* ---- Activations ---- */

static void pack_acts(uint16_t *to, const float *x, int n_tokens, int n_cols) {
    for (int c = 0; c < n_cols; c += TILE_COLS) {
        tile_rows v;
        for (int t = 0; t < TILE_SIDE; t++) {
            const float *at = x + (size_t)t * n_cols + c;
            v[t] = t < n_tokens ? to_bf16(_mm512_loadu_ps(at), _mm512_loadu_ps(at + 16))
                                : _mm512_setzero_si512();
        }
        transpose(v);
        memcpy(to + (size_t)c * TILE_SIDE, v, TILE_BYTES);
    }
}

/* ---- Weights ---- */

/* w = fma(q, factor, term) for the unsigned q of sixteen rows; [h]: columns 16 h ... 16 h + 15. */
typedef struct {
    float factor[SPAN][2][ROWS], term[SPAN][2][ROWS];
} row_factors;

INLINE void find_factors(row_factors *to, const block_format *f, const uint8_t *const row[ROWS],
                         int n) {
    row_scales s;
    f->scales(&s, row, n);
    for (int b = 0; b < n; b++) {
        for (int h = 0; h < 2; h++) {
            __m512 factor = _mm512_loadu_ps(s.scale[b]);
            if (f->has_mult) {
                factor = _mm512_mul_ps(factor, _mm512_loadu_ps(s.mult[b][h]));
            }
            const __m512 min = f->has_min ? _mm512_loadu_ps(s.min[b]) : _mm512_setzero_ps();
            const __m512 term = _mm512_fnmsub_ps(factor, _mm512_set1_ps((float)f->offset), min);
            _mm512_storeu_ps(to->factor[b][h], factor);
            _mm512_storeu_ps(to->term[b][h], term);
        }
    }
}

/* Columns 16 h and on of row i. */
INLINE __m512 dequantize_half(__m128i q, const row_factors *s, int b, int h, int i) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q)),
                           _mm512_set1_ps(s->factor[b][h][i]), _mm512_set1_ps(s->term[b][h][i]));
}

INLINE __m512i dequantize_row(__m256i q, const row_factors *s, int b, int i) {
    return to_bf16(dequantize_half(_mm256_castsi256_si128(q), s, b, 0, i),
                   dequantize_half(_mm256_extracti128_si256(q, 1), s, b, 1, i));
}

/* A panel takes a few hundred bytes of each row, too few for the hardware's prefetcher: as a row's
 * span is dequantized, line i of the same span of the panel right of it is fetched. */
INLINE void prefetch_line(const block_format *f, const uint8_t *row, int i) {
    const size_t panel_bytes = PANEL_COLS / CE_QK / f->sub_blocks * f->block_bytes;
    const size_t span_bytes = SPAN / f->sub_blocks * f->block_bytes;
    const size_t at = (size_t)i * CACHE_LINE;
    if (at < span_bytes) {
        _mm_prefetch((const char *)row + panel_bytes + at, _MM_HINT_T1);
    }
}

/* n blocks (at most SPAN) of sixteen rows to as many tiles. */
INLINE void dequantize_span(tile_rows *to, const block_format *f, const uint8_t *const row[ROWS],
                            int n) {
    row_factors s;
    find_factors(&s, f, row, n);
#pragma GCC unroll 8 /* SPAN: makes the shifts in quants() constants */
    for (int b = 0; b < n; b++) {
        const size_t at = b / f->sub_blocks * f->block_bytes;
        for (int i = 0; i < ROWS; i += 2) {
            prefetch_line(f, row[i], b);
            prefetch_line(f, row[i + 1], b);
            const __m512i q = f->quants(row[i] + at, row[i + 1] + at, b % f->sub_blocks);
            to[b][i] = dequantize_row(_mm512_castsi512_si256(q), &s, b, i);
            to[b][i + 1] = dequantize_row(_mm512_extracti64x4_epi64(q, 1), &s, b, i + 1);
        }
    }
}

typedef struct {
    tile_rows half[2][PANEL_TILES]; /* rows 0 ... 15 and 16 ... 31 */
} panel;

/* n_tiles tiles of 32 rows, of which n_rows exist. */
INLINE void dequantize_panel(panel *p, const block_format *f, const uint8_t *w, size_t row_bytes,
                             int n_rows, int n_tiles) {
    for (int h = 0; h < 2; h++) {
        const uint8_t *row[ROWS];
        for (int i = 0; i < ROWS; i++) {
            row[i] = w + min_int(h * ROWS + i, n_rows - 1) * row_bytes;
        }
        for (int b = 0; b < n_tiles; b += SPAN) {
            const int n = f->sub_blocks == SPAN ? SPAN : min_int(SPAN, n_tiles - b);
            dequantize_span(p->half[h] + b, f, row, n);
            for (int i = 0; i < ROWS; i++) {
                row[i] += SPAN / f->sub_blocks * f->block_bytes;
            }
        }
    }
}

/* ---- Products ---- */

/* sums[h] += half h of the panel times one group of sixteen tokens. */
static void multiply_one(tile_rows sums[2], const panel *p, const uint16_t *x, int n_tiles) {
    TILE_LOAD(0, sums[0]);
    TILE_LOAD(1, sums[1]);
    for (int i = 0; i < n_tiles; i++) {
        TILE_LOAD(6, (const char *)x + i * TILE_BYTES);
        TILE_LOAD(4, p->half[0][i]);
        TILE_LOAD(5, p->half[1][i]);
        TILE_MULTIPLY_BF16(0, 4, 6);
        TILE_MULTIPLY_BF16(1, 5, 6);
    }
    TILE_STORE(sums[0], 0);
    TILE_STORE(sums[1], 1);
}

/* The same for two groups: sums[2 * g + h]. */
static void multiply_two(tile_rows sums[4], const panel *p, const uint16_t *x0, const uint16_t *x1,
                         int n_tiles) {
    TILE_LOAD(0, sums[0]);
    TILE_LOAD(1, sums[1]);
    TILE_LOAD(2, sums[2]);
    TILE_LOAD(3, sums[3]);
    for (int i = 0; i < n_tiles; i++) {
        TILE_LOAD(6, (const char *)x0 + i * TILE_BYTES);
        TILE_LOAD(4, p->half[0][i]);
        TILE_MULTIPLY_BF16(0, 4, 6);
        TILE_LOAD(5, p->half[1][i]);
        TILE_MULTIPLY_BF16(1, 5, 6);
        TILE_LOAD(7, (const char *)x1 + i * TILE_BYTES);
        TILE_MULTIPLY_BF16(2, 4, 7);
        TILE_MULTIPLY_BF16(3, 5, 7);
    }
    TILE_STORE(sums[0], 0);
    TILE_STORE(sums[1], 1);
    TILE_STORE(sums[2], 2);
    TILE_STORE(sums[3], 3);
}

/* [panel of the block][group of tokens][half of the panel] */
typedef tile_rows block_sums[BLOCK_ROWS / PANEL_ROWS][BLOCK_GROUPS][2];

INLINE void multiply_panel(tile_rows sums[][2], const panel *p, const uint16_t *x,
                           size_t group_size, int n_groups, int n_tiles) {
    int g = 0;
    for (; g + 2 <= n_groups; g += 2) {
        const uint16_t *at = x + g * group_size;
        multiply_two(sums[g], p, at, at + group_size, n_tiles);
    }
    if (g < n_groups) {
        multiply_one(sums[g], p, x + g * group_size, n_tiles);
    }
}

static void store_tile(float *y, size_t y_stride, const tile_rows sums, int n_rows, int n_tokens) {
    tile_rows v;
    memcpy(v, sums, sizeof v);
    transpose(v);
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
INLINE void multiply_block(const block_format *f, float *y, size_t y_stride, const uint8_t *w,
                           size_t row_bytes, int n_rows, const uint16_t *x, int n_tokens,
                           int n_cols) {
    const int n_groups = (n_tokens + TILE_SIDE - 1) / TILE_SIDE;
    const size_t group_size = (size_t)n_cols * TILE_SIDE;
    block_sums sums;
    for (int r = 0; r < n_rows; r += PANEL_ROWS) {
        memset(sums[r / PANEL_ROWS], 0, n_groups * sizeof sums[0][0]);
    }
    for (int c = 0; c < n_cols; c += PANEL_COLS) {
        const int n_tiles = min_int(PANEL_COLS, n_cols - c) / TILE_COLS;
        const size_t at = c / CE_QK / f->sub_blocks * f->block_bytes;
        for (int r = 0; r < n_rows; r += PANEL_ROWS) {
            panel p;
            dequantize_panel(&p, f, w + r * row_bytes + at, row_bytes, n_rows - r, n_tiles);
            multiply_panel(sums[r / PANEL_ROWS], &p, x + (size_t)c * TILE_SIDE, group_size,
                           n_groups, n_tiles);
        }
    }
    store_block(y, y_stride, sums, n_rows, n_tokens);
}

INLINE void matmul(const block_format *f, float *y, size_t y_stride, const uint8_t *w,
                   size_t row_bytes, int n_rows, const uint16_t *x, int n_tokens, int n_cols) {
    tiles_configure();
    for (int t = 0; t < n_tokens; t += BLOCK_TOKENS) {
        for (int r = 0; r < n_rows; r += BLOCK_ROWS) {
            multiply_block(f, y + t * y_stride + r, y_stride, w + r * row_bytes, row_bytes,
                           min_int(BLOCK_ROWS, n_rows - r), x + (size_t)t * n_cols,
                           min_int(BLOCK_TOKENS, n_tokens - t), n_cols);
        }
    }
    tiles_release();
}

/* ---- The kernels ---- */

#define DEFINE_MATMUL(type)                                                                        \
    static void matmul_##type(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols) {            \
        matmul(&format_##type, y, y_stride, w, w_row_bytes, n_rows, x->packed, n_tokens, n_cols);  \
    }

DEFINE_MATMUL(q4_0)
DEFINE_MATMUL(q8_0)
DEFINE_MATMUL(q4_K)
DEFINE_MATMUL(q5_K)
DEFINE_MATMUL(q6_K)

static void overlay(ce_kernels *k, ce_type type, const char *name, ce_matmul_fn *run) {
    k->matmul[CE_PHASE_PROMPT][type] = (ce_matmul_kernel){name, run, .packed = true};
}

void ce_amx_matmul(ce_kernels *k) {
    k->pack_acts = pack_acts;
    overlay(k, CE_TYPE_Q4_0, "q4_0/amx/prompt", matmul_q4_0);
    overlay(k, CE_TYPE_Q8_0, "q8_0/amx/prompt", matmul_q8_0);
    overlay(k, CE_TYPE_Q4_K, "q4_K/amx/prompt", matmul_q4_K);
    overlay(k, CE_TYPE_Q5_K, "q5_K/amx/prompt", matmul_q5_K);
    overlay(k, CE_TYPE_Q6_K, "q6_K/amx/prompt", matmul_q6_K);
}
