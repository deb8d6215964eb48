/* AMX matmuls of the K types in int8, for prompts.
 *
 * A product of tiles is summed over so many columns before it is scaled: weights have one scale for
 * a span of 256 columns of a row, activations one for a piece of 128 columns of a token:
 *     y = fma(sum over the span's pieces of float(products) * x_scale, w_scale, y), span by span
 *     x = rint(x * (127 / most)), most the largest |x| of the piece; x_scale = most / 127
 *     w = q * factor + term >> 8 in integers, with
 *         factor = rint(scale * (256 * 127 / most)), scale that of q's sub-block,
 *         term = rint(-min * (256 * 127 / most)) + 128,
 *         most the least for which all that the span's quants can stand for lies between
 *         -most * 128 / 127 and most; w_scale = most / 127
 * so that a weight is off by little more than half of w_scale, at most. */
#include "amx.h"
#include "amx_panels.h"

enum {
    SPAN_COLS = SPAN * CE_QK,
    SPAN_TILES = SPAN_COLS / TILE_ROW_BYTES,
    PIECES = 2, /* of a span */
    PIECE_COLS = SPAN_COLS / PIECES,
    PIECE_TILES = SPAN_TILES / PIECES,
    TILE_BLOCKS = TILE_ROW_BYTES / CE_QK,
    PANEL_SPANS = 3,
    PANEL_BLOCKS = PANEL_SPANS * SPAN,
    MAX_INT8 = 127,
    FRACTION_BITS = 8 /* of the weights, before they are rounded */
};

/* Sixteen rows; tiles[i]: columns 64 i ... 64 i + 63. */
typedef struct {
    tile_rows tiles[SPAN_TILES];
    float scale[TILE_SIDE];
} row_span;

/* Sixteen tokens, four columns of each side by side. */
typedef struct {
    tile_rows tiles[SPAN_TILES];
    float scale[PIECES][TILE_SIDE];
} token_span;

/* [span][half: rows 0 ... 15, rows 16 ... 31] */
typedef row_span int8_panel[PANEL_SPANS][2];

_Static_assert(sizeof(int8_panel) <= PANEL_BYTES, "a panel");

/* The larger one of a, which is not negative, and |b|; what is no number counts as larger than any.
 */
INLINE __m512 larger_magnitude(__m512 a, __m512 b) {
    return _mm512_castsi512_ps(
        _mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(_mm512_abs_ps(b))));
}

/* What makes `most` of `range`; 0 where all is zero. If most is no number or infinite, or so small
 * that this overflows, the conversions to integers below give zeros; the scale, most / 127, is then
 * no number either, or tiny. */
INLINE __m512 inverse_scale(float range, __m512 most) {
    const __mmask16 some = _mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    return _mm512_maskz_div_ps(some, _mm512_set1_ps(range), most);
}

/* ---- Activations ---- */

/* A piece of a token. Returns the scale. */
static float quantize_piece(int8_t q[PIECE_COLS], const float *x) {
    __m512 most = _mm512_setzero_ps();
    for (int c = 0; c < PIECE_COLS; c += 16) {
        most = larger_magnitude(most, _mm512_loadu_ps(x + c));
    }
    const uint32_t bits = _mm512_reduce_max_epu32(_mm512_castps_si512(most));
    most = _mm512_castsi512_ps(_mm512_set1_epi32((int)bits));
    const __m512 inverse = inverse_scale(MAX_INT8, most);
    for (int c = 0; c < PIECE_COLS; c += 16) {
        const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + c), inverse);
        _mm_storeu_si128((__m128i *)(q + c), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(scaled)));
    }
    return _mm512_cvtss_f32(most) / MAX_INT8;
}

static void pack_tokens(void *packed, const ce_acts *x, int n_tokens, int n_cols) {
    token_span *to = packed;
    for (int c = 0; c < n_cols; c += SPAN_COLS, to++) {
        int8_t q[TILE_SIDE][SPAN_COLS] = {{0}};
        memset(to->scale, 0, sizeof to->scale);
        for (int t = 0; t < n_tokens; t++) {
            const float *at = x->f32 + (size_t)t * n_cols + c;
            for (int p = 0; p < PIECES; p++) {
                to->scale[p][t] = quantize_piece(q[t] + p * PIECE_COLS, at + p * PIECE_COLS);
            }
        }
        for (int i = 0; i < SPAN_TILES; i++) {
            tile_rows v;
            for (int t = 0; t < TILE_SIDE; t++) {
                v[t] = _mm512_loadu_si512(q[t] + i * TILE_ROW_BYTES);
            }
            transpose_tile(v);
            memcpy(to->tiles[i], v, sizeof v);
        }
    }
}

static size_t packed_bytes(int n_blocks) { return (size_t)(n_blocks / SPAN) * sizeof(token_span); }

/* ---- Weights ---- */

/* 16-bit numbers: w = q * factor + term >> 8 for the unsigned q of sixteen rows, where
 * joined_rows() has them: one for the low 16 columns of a block and one for the high ones. */
typedef struct {
    __m512i factor[SPAN], term[SPAN];
} row_factors;

/* Integers of sixteen rows for the low columns and for the high ones, as 16 bits. */
INLINE __m512i joined_rows(__m512i low, __m512i high) { return _mm512_packs_epi32(low, high); }

/* Where joined_rows() has row i's number for half h of a block. */
INLINE int place_of(int i, int h) { return i / 4 * 8 + h * 4 + i % 4; }

/* What has to fit 127, for v to fit -128 ... 127. */
INLINE __m512 extent(floats v) {
    return _mm512_max_ps(_mm512_mul_ps((__m512)v, _mm512_set1_ps(-127.0f / 128.0f)), (__m512)v);
}

/* Of half h of block b; the same for both where the type has one scale for them. */
INLINE floats step_of(const block_format *f, const row_scales *s, int b, int h) {
    return f->has_mult ? s->scale[b] * s->mult[b][h] : s->scale[b];
}

INLINE __m512i to_integers(floats v, __m512 factor) {
    return _mm512_cvtps_epi32(_mm512_mul_ps((__m512)v, factor));
}

/* scale: [ROWS] */
INLINE void find_factors(row_factors *to, float *scale, const block_format *f,
                         const row_scales *s) {
    const floats least = (floats){0} - (float)f->offset;
    const floats greatest = (floats){0} + (float)(f->max_quant - f->offset);
    __m512 most = _mm512_setzero_ps();
    for (int b = 0; b < SPAN; b++) {
        const floats min = f->has_min ? s->min[b] : (floats){0};
        for (int h = 0; h < (f->has_mult ? 2 : 1); h++) {
            const floats step = step_of(f, s, b, h);
            most = larger_magnitude(most, extent(multiply_add(step, least, -min)));
            most = larger_magnitude(most, extent(multiply_add(step, greatest, -min)));
        }
    }
    _mm512_storeu_ps(scale, _mm512_div_ps(most, _mm512_set1_ps(MAX_INT8)));
    const __m512 inverse = inverse_scale(MAX_INT8 << FRACTION_BITS, most);
    const __m512i half = _mm512_set1_epi16(1 << (FRACTION_BITS - 1));
    const __m512i offset = _mm512_set1_epi16((short)f->offset);
    for (int b = 0; b < SPAN; b++) {
        to->factor[b] = joined_rows(to_integers(step_of(f, s, b, 0), inverse),
                                    to_integers(step_of(f, s, b, 1), inverse));
        to->term[b] = _mm512_sub_epi16(half, _mm512_mullo_epi16(to->factor[b], offset));
        if (f->has_min) {
            const __m512i term = to_integers(-s->min[b], inverse);
            to->term[b] = _mm512_add_epi16(to->term[b], joined_rows(term, term));
        }
    }
}

/* The places of row i's two numbers and of row j's, eight times each: one for a column. */
INLINE __m512i places_of_rows(int i, int j) {
    const int64_t each = 0x0001000100010001;
    const int64_t i0 = each * place_of(i, 0), i1 = each * place_of(i, 1);
    const int64_t j0 = each * place_of(j, 0), j1 = each * place_of(j, 1);
    return _mm512_setr_epi64(i0, i0, i1, i1, j0, j0, j1, j1);
}

INLINE __m512i multiply_add_16(__m512i q, __m512i factor, __m512i term) {
    return _mm512_add_epi16(_mm512_mullo_epi16(q, factor), term);
}

/* The int8 of block b's quants q, 32 columns of row i and then of row j. Where quants are few, so
 * are the weights that they can stand for: these are computed once and looked up, in two thirds of
 * the instructions. */
INLINE __m512i requantize(const block_format *f, __m512i q, const row_factors *s, int b, int i,
                          int j) {
    const __m512i places = places_of_rows(i, j);
    const __m512i factor = _mm512_permutexvar_epi16(places, s->factor[b]);
    const __m512i term = _mm512_permutexvar_epi16(places, s->term[b]);
    if (f->max_quant < 16) {
        const __m512i quants = _mm512_broadcast_i64x4(
            _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        /* Of row i's sixteen the high bytes, twice; then of row j's. */
        const __m512i high_bytes = _mm512_setr_epi64(
            0x0f0d0b0907050301, 0x1f1d1b1917151311, 0x0f0d0b0907050301, 0x1f1d1b1917151311,
            0x2f2d2b2927252321, 0x3f3d3b3937353331, 0x2f2d2b2927252321, 0x3f3d3b3937353331);
        const __m512i table =
            _mm512_permutexvar_epi8(high_bytes, multiply_add_16(quants, factor, term));
        return _mm512_shuffle_epi8(table, q);
    }
    const __m512i low_bytes = _mm512_set1_epi16(0xff);
    const __m512i even = multiply_add_16(_mm512_and_si512(q, low_bytes), factor, term);
    const __m512i odd = multiply_add_16(_mm512_srli_epi16(q, 8), factor, term);
    const int where_a_then_b_else_c = 0xca;
    return _mm512_ternarylogic_epi32(low_bytes, _mm512_srli_epi16(even, FRACTION_BITS), odd,
                                     where_a_then_b_else_c);
}

/* The k-th vector of block b. */
INLINE void requantize_to(row_span *to, const block_format *f, bytes q, const row_factors *s, int b,
                          int k) {
    const int i = row_of(k, 0), j = row_of(k, 1), at = b % TILE_BLOCKS;
    const __m512i w = requantize(f, (__m512i)q, s, b, i, j);
    __m512i *tile = to->tiles[b / TILE_BLOCKS];
    _mm256_store_si256((__m256i *)&tile[i] + at, _mm512_castsi512_si256(w));
    _mm256_store_si256((__m256i *)&tile[j] + at, _mm512_extracti64x4_epi64(w, 1));
}

INLINE void requantize_span(row_span *to, const block_format *f, const uint8_t *const row[ROWS]) {
    row_scales scales;
    f->scales(&scales, row, SPAN);
    row_factors factors;
    find_factors(&factors, to->scale, f, &scales);
    for (int k = 0; k < VECTORS; k++) {
#pragma GCC unroll 8 /* SPAN: makes the shifts in quants() constants */
        for (int b = 0; b < SPAN; b++) {
            prefetch_right(f, row[row_of(k, 0)], PANEL_BLOCKS, b);
            prefetch_right(f, row[row_of(k, 1)], PANEL_BLOCKS, b);
            requantize_to(to, f, quants_at(f, row, NULL, k, b), &factors, b, k);
        }
    }
}

INLINE void fill_from_rows(void *panel, const weight_rows *w, int r, int b0, int b_end) {
    int8_panel *p = panel;
    const block_format *f = w->format;
    for (int h = 0; h < 2; h++) {
        const uint8_t *row[ROWS];
        point_at_rows(row, w->w + b0 / SPAN * span_bytes(f), w->row_bytes, r + h * ROWS, w->n_rows);
        for (int b = b0; b < b_end; b += SPAN) {
            requantize_span(&(*p)[(b - b0) / SPAN][h], f, row);
            advance_rows(row, span_bytes(f));
        }
    }
}

INLINE void requantize_repacked_span(row_span *to, const repacked_format *format,
                                     repacked_span span) {
    const block_format *f = format->f;
    row_scales scales;
    format->scales(&scales, span.halves, span.words);
    row_factors factors;
    find_factors(&factors, to->scale, f, &scales);
#pragma GCC unroll 8 /* SPAN: makes the shifts in columns() constants */
    for (int b = 0; b < SPAN; b++) {
        bytes columns[GROUPS], rows[VECTORS];
        prefetch_repacked(f, span, PANEL_BLOCKS, b);
        for (int g = 0; g < GROUPS; g++) {
            columns[g] = columns_at(format, span, b, g);
        }
        transpose_back(rows, columns);
#pragma GCC unroll 8 /* VECTORS: they are in registers */
        for (int k = 0; k < VECTORS; k++) {
            requantize_to(to, f, rows[k], &factors, b, k);
        }
    }
}

INLINE void fill_from_repacked(void *panel, const weight_rows *w, int r, int b0, int b_end) {
    int8_panel *p = panel;
    for (int h = 0; h < 2; h++) {
        for (int b = b0; b < b_end; b += SPAN) {
            requantize_repacked_span(&(*p)[(b - b0) / SPAN][h], w->format,
                                     span_of(w, r + h * ROWS, b));
        }
    }
}

/* ---- Products ---- */

/* [piece][half of the panel] */
typedef tile_rows span_sums[PIECES][2];

/* Four tile registers, and why: see amx_matmul_bf16.c. */
INLINE void multiply_span(span_sums sums, const row_span w[2], const token_span *x) {
#pragma GCC unroll 2 /* PIECES */
    for (int p = 0; p < PIECES; p++) {
        TILE_ZERO(0);
        TILE_ZERO(1);
#pragma GCC unroll 2 /* PIECE_TILES */
        for (int i = p * PIECE_TILES; i < (p + 1) * PIECE_TILES; i++) {
            TILE_LOAD_ONCE(2, x->tiles[i]);
            TILE_LOAD(3, w[0].tiles[i]);
            TILE_MULTIPLY_INT8(0, 3, 2);
            TILE_LOAD(3, w[1].tiles[i]);
            TILE_MULTIPLY_INT8(1, 3, 2);
        }
        TILE_STORE(sums[p][0], 0);
        TILE_STORE(sums[p][1], 1);
    }
}

INLINE void add_scaled(tile_floats y[2], span_sums sums, const row_span w[2], const token_span *x) {
    for (int h = 0; h < 2; h++) {
#pragma GCC unroll 16 /* TILE_SIDE */
        for (int r = 0; r < TILE_SIDE; r++) {
            __m512 sum =
                _mm512_mul_ps(_mm512_cvtepi32_ps(sums[0][h][r]), _mm512_loadu_ps(x->scale[0]));
            for (int p = 1; p < PIECES; p++) {
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[p][h][r]),
                                      _mm512_loadu_ps(x->scale[p]), sum);
            }
            const __m512 before = _mm512_loadu_ps(y[h][r]);
            _mm512_storeu_ps(y[h][r], _mm512_fmadd_ps(sum, _mm512_set1_ps(w[h].scale[r]), before));
        }
    }
}

/* A span's sums are added while the next one's products are under way. */
static void multiply(tile_floats y[2], const void *panel, const void *x, int n_blocks) {
    const int8_panel *p = panel;
    const token_span *tokens = x;
    span_sums sums[2];
    multiply_span(sums[0], (*p)[0], tokens);
    for (int s = 0; s < n_blocks / SPAN; s++) {
        if (s + 1 < n_blocks / SPAN) {
            multiply_span(sums[(s + 1) % 2], (*p)[s + 1], tokens + s + 1);
        }
        add_scaled(y, sums[s % 2], (*p)[s], tokens + s);
    }
}

/* ---- The kernels ---- */

static const ce_packing token_packing = {.min_tokens = 1,
                                         .block_bytes = sizeof(token_span) / SPAN,
                                         .from_f32 = true,
                                         .pack = pack_tokens};

static const panel_kernel kernel = {PANEL_BLOCKS, packed_bytes, multiply};

DEFINE_BOTH(Q4_K, q4_K)
DEFINE_BOTH(Q5_K, q5_K)
DEFINE_BOTH(Q6_K, q6_K)

void ce_amx_matmul_int8(ce_kernels *k) {
    OVERLAY_BOTH(Q4_K, q4_K)
    OVERLAY_BOTH(Q5_K, q5_K)
    OVERLAY_BOTH(Q6_K, q6_K)
}
