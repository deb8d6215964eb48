/* The block types in AVX-512 registers: quants of two rows, scales of sixteen (lanes = rows). */
#ifndef CE_AVX512VNNI_BLOCKS_H
#define CE_AVX512VNNI_BLOCKS_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "blocks.h"
#include "inline.h"

/* Rows handled together, and the most blocks of 32 columns between two looks at the scales. */
enum { ROWS = 16, SPAN = 8 };

/* Scales of sixteen rows over a span: w = (scale * mult) * q - min * min_mult, with the integers
 * mult and min_mult per 16 columns. What a type does not have is left unset. */
typedef struct {
    float scale[SPAN][ROWS];
    float min[SPAN][ROWS];
    float mult[SPAN][2][ROWS];
    float min_mult[SPAN][2][ROWS];
} row_scales;

/* What the matmuls need to know of a type. */
typedef struct {
    size_t block_bytes;
    int sub_blocks; /* of 32 columns, in a block */
    int offset;     /* quants() gives q + offset, as unsigned bytes */
    bool has_min;
    bool has_mult;
    bool has_min_mult; /* besides the other two */
    /* The 32 quants of a sub-block of row a (low half) and of row b (high half). */
    __m512i (*quants)(const uint8_t *a, const uint8_t *b, int sub);
    /* The scales of n sub-blocks from row[i] on; n is SPAN for the types of 256 columns. */
    void (*scales)(row_scales *s, const uint8_t *const row[ROWS], int n);
} block_format;

static inline __m512i load_pair(const void *a, const void *b) {
    const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(a));
    return _mm512_inserti64x4(low, _mm256_loadu_si256(b), 1);
}

static inline __m512i bits(__m512i v, int shift, char mask) {
    return _mm512_and_si512(_mm512_srli_epi16(v, (unsigned)shift), _mm512_set1_epi8(mask));
}

/* The half float at row[i] + at of each row. */
static inline __m512 half_of_rows(const uint8_t *const row[ROWS], size_t at) {
    uint16_t h[ROWS];
    for (int i = 0; i < ROWS; i++) {
        memcpy(&h[i], row[i] + at, sizeof h[i]);
    }
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)h));
}

/* The 32-bit word at row[i] + at of each row. */
static inline __m512i word_of_rows(const uint8_t *const row[ROWS], size_t at) {
    uint32_t v[ROWS];
    for (int i = 0; i < ROWS; i++) {
        memcpy(&v[i], row[i] + at, sizeof v[i]);
    }
    return _mm512_loadu_si512(v);
}

static inline __m128i load_128(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }

/* The four 32-bit words at row[i] + at of each row: out[j] lane i = word j of row i. */
static inline void words_of_rows(__m512i out[4], const uint8_t *const row[ROWS], size_t at) {
    __m512i v[4]; /* rows i, i + 4, i + 8 and i + 12 */
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_castsi128_si512(load_128(row[i] + at));
        v[i] = _mm512_inserti32x4(v[i], load_128(row[i + 4] + at), 1);
        v[i] = _mm512_inserti32x4(v[i], load_128(row[i + 8] + at), 2);
        v[i] = _mm512_inserti32x4(v[i], load_128(row[i + 12] + at), 3);
    }
    const __m512i low01 = _mm512_unpacklo_epi32(v[0], v[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(v[2], v[3]);
    const __m512i high01 = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i high23 = _mm512_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm512_unpacklo_epi64(low01, low23);
    out[1] = _mm512_unpackhi_epi64(low01, low23);
    out[2] = _mm512_unpacklo_epi64(high01, high23);
    out[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* Byte j of each lane, as a float. */
static inline __m512 unsigned_byte(__m512i v, int j) {
    const __m512i low = _mm512_srli_epi32(v, (unsigned)(8 * j));
    return _mm512_cvtepi32_ps(_mm512_and_si512(low, _mm512_set1_epi32(255)));
}

static inline __m512 signed_byte(__m512i v, int j) {
    const __m512i high = _mm512_slli_epi32(v, (unsigned)(24 - 8 * j));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(high, 24));
}

/* The `width` bits of each lane from bit `at` on. */
static inline __m512i field(__m512i v, int at, int width) {
    return _mm512_and_si512(_mm512_srli_epi32(v, (unsigned)at),
                            _mm512_set1_epi32((1 << width) - 1));
}

/* The low 16 bits of each lane, a half float. */
static inline __m512 half_in_lane(__m512i v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }

/* A bit per byte, the first half's in the low 32. */
static inline __mmask64 mask_of_pair(uint32_t a, uint32_t b) {
    return (__mmask64)a | (__mmask64)b << 32;
}

/* ---- Blocks of 32 columns ---- */

/* The low nibbles of 16 bytes, then the high ones; of a, then of b. */
static inline __m512i low_then_high(const uint8_t *a, const uint8_t *b) {
    const __m256i pair = _mm256_set_m128i(load_128(b), load_128(a));
    const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3),
                                                   _mm512_castsi256_si512(pair));
    const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    return _mm512_and_si512(_mm512_srlv_epi64(twice, shift), _mm512_set1_epi8(15));
}

static inline __m512i with_fifth_bits(__m512i low, uint32_t a, uint32_t b) {
    return _mm512_mask_add_epi8(low, mask_of_pair(a, b), low, _mm512_set1_epi8(16));
}

static inline __m512i quants_q4_0(const uint8_t *a, const uint8_t *b, int sub) {
    (void)sub;
    return low_then_high(((const ce_block_q4_0 *)a)->qs, ((const ce_block_q4_0 *)b)->qs);
}

static inline __m512i quants_q4_1(const uint8_t *a, const uint8_t *b, int sub) {
    (void)sub;
    return low_then_high(((const ce_block_q4_1 *)a)->qs, ((const ce_block_q4_1 *)b)->qs);
}

static inline __m512i quants_q5_0(const uint8_t *a, const uint8_t *b, int sub) {
    (void)sub;
    const ce_block_q5_0 *ba = (const ce_block_q5_0 *)a, *bb = (const ce_block_q5_0 *)b;
    return with_fifth_bits(low_then_high(ba->qs, bb->qs), ba->qh, bb->qh);
}

static inline __m512i quants_q5_1(const uint8_t *a, const uint8_t *b, int sub) {
    (void)sub;
    const ce_block_q5_1 *ba = (const ce_block_q5_1 *)a, *bb = (const ce_block_q5_1 *)b;
    return with_fifth_bits(low_then_high(ba->qs, bb->qs), ba->qh, bb->qh);
}

static inline __m512i quants_q8_0(const uint8_t *a, const uint8_t *b, int sub) {
    (void)sub;
    const __m512i q = load_pair(((const ce_block_q8_0 *)a)->qs, ((const ce_block_q8_0 *)b)->qs);
    return _mm512_xor_si512(q, _mm512_set1_epi8((char)0x80));
}

/* A block's scale is its first half float, and its min the second one's negative. */
static inline void scales_of_blocks(row_scales *s, const uint8_t *const row[ROWS], int n,
                                    size_t block_bytes, bool has_min) {
    for (int b = 0; b < n; b++) {
        _mm512_storeu_ps(s->scale[b], half_of_rows(row, b * block_bytes));
        if (has_min) {
            const __m512 m = half_of_rows(row, b * block_bytes + sizeof(uint16_t));
            _mm512_storeu_ps(s->min[b], _mm512_xor_ps(m, _mm512_set1_ps(-0.0f)));
        }
    }
}

static inline void scales_q4_0(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q4_0), false);
}

static inline void scales_q4_1(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q4_1), true);
}

static inline void scales_q5_0(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q5_0), false);
}

static inline void scales_q5_1(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q5_1), true);
}

static inline void scales_q8_0(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q8_0), false);
}

/* ---- K types ---- */

static inline __m512i pairs_of_bits(const uint8_t *a, const uint8_t *b, int sub) {
    const int at = 32 * (sub / 4);
    return bits(load_pair(a + at, b + at), 2 * (sub % 4), 3);
}

static inline __m512i quants_q2_K(const uint8_t *a, const uint8_t *b, int sub) {
    return pairs_of_bits(((const ce_block_q2_K *)a)->qs, ((const ce_block_q2_K *)b)->qs, sub);
}

static inline __m512i quants_q3_K(const uint8_t *a, const uint8_t *b, int sub) {
    const ce_block_q3_K *ba = (const ce_block_q3_K *)a, *bb = (const ce_block_q3_K *)b;
    const __m512i high = bits(load_pair(ba->hmask, bb->hmask), sub, 1);
    return _mm512_or_si512(pairs_of_bits(ba->qs, bb->qs, sub), _mm512_slli_epi16(high, 2));
}

static inline __m512i quants_q4_K(const uint8_t *a, const uint8_t *b, int sub) {
    const int at = 32 * (sub / 2);
    return bits(load_pair(((const ce_block_q4_K *)a)->qs + at, ((const ce_block_q4_K *)b)->qs + at),
                4 * (sub % 2), 15);
}

static inline __m512i quants_q5_K(const uint8_t *a, const uint8_t *b, int sub) {
    const ce_block_q5_K *ba = (const ce_block_q5_K *)a, *bb = (const ce_block_q5_K *)b;
    const int at = 32 * (sub / 2);
    const __m512i low = bits(load_pair(ba->qs + at, bb->qs + at), 4 * (sub % 2), 15);
    const __m512i high = bits(load_pair(ba->qh, bb->qh), sub, 1);
    return _mm512_or_si512(low, _mm512_slli_epi16(high, 4));
}

static inline __m512i quants_q6_K(const uint8_t *a, const uint8_t *b, int sub) {
    const ce_block_q6_K *ba = (const ce_block_q6_K *)a, *bb = (const ce_block_q6_K *)b;
    const int half = sub / 4, quarter = sub % 4, at = 64 * half + 32 * (quarter % 2);
    const __m512i low = bits(load_pair(ba->ql + at, bb->ql + at), 4 * (quarter / 2), 15);
    return _mm512_or_si512(low, _mm512_slli_epi16(pairs_of_bits(ba->qh, bb->qh, sub), 4));
}

static inline void scales_q2_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m512 d = half_of_rows(row, offsetof(ce_block_q2_K, d));
    const __m512 dmin = half_of_rows(row, offsetof(ce_block_q2_K, dmin));
    __m512i word[4];
    words_of_rows(word, row, offsetof(ce_block_q2_K, scales));
    for (int b = 0; b < SPAN; b++) {
        _mm512_storeu_ps(s->scale[b], d);
        _mm512_storeu_ps(s->min[b], dmin);
        for (int h = 0; h < 2; h++) {
            const int at = 16 * (b % 2) + 8 * h;
            _mm512_storeu_ps(s->mult[b][h], _mm512_cvtepi32_ps(field(word[b / 2], at, 4)));
            _mm512_storeu_ps(s->min_mult[b][h], _mm512_cvtepi32_ps(field(word[b / 2], at + 4, 4)));
        }
    }
}

/* The layout is described at q3_K_scale in generic_blocks.h; here four scales at once. */
static inline void scales_q3_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const size_t at = offsetof(ce_block_q3_K, scales);
    const __m512 d = half_of_rows(row, offsetof(ce_block_q3_K, d));
    const __m512i low[2] = {word_of_rows(row, at), word_of_rows(row, at + 4)};
    const __m512i high = word_of_rows(row, at + 8);
    for (int b = 0; b < SPAN; b++) {
        _mm512_storeu_ps(s->scale[b], d);
    }
    for (int j = 0; j < 16; j += 4) {
        const __m512i low4 = bits(low[j / 4 % 2], 4 * (j / 8), 15);
        const __m512i high2 = _mm512_slli_epi16(bits(high, j / 2, 3), 4);
        const __m512i scales = _mm512_sub_epi8(_mm512_or_si512(low4, high2), _mm512_set1_epi8(32));
        for (int k = 0; k < 4; k++) {
            _mm512_storeu_ps(s->mult[(j + k) / 2][k % 2], signed_byte(scales, k));
        }
    }
}

/* The first 16 bytes of q4_K and q5_K: d and dmin, then 12 bytes of scales and mins. Their layout
 * is described at unpack_scale_min in generic_blocks.h; a word here has four sub-blocks. */
static inline void scales_q4_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m512i low6 = _mm512_set1_epi8(63), low4 = _mm512_set1_epi8(15);
    const __m512i bits45 = _mm512_set1_epi8(0x30);
    __m512i word[4];
    words_of_rows(word, row, 0);
    const __m512 d = half_in_lane(word[0]);
    const __m512 dmin = half_in_lane(_mm512_srli_epi32(word[0], 16));
    const __m512i high_scale = _mm512_and_si512(_mm512_srli_epi32(word[1], 2), bits45);
    const __m512i high_min = _mm512_and_si512(_mm512_srli_epi32(word[2], 2), bits45);
    const __m512i low_min = _mm512_and_si512(_mm512_srli_epi32(word[3], 4), low4);
    const __m512i scale[2] = {_mm512_and_si512(word[1], low6),
                              _mm512_or_si512(_mm512_and_si512(word[3], low4), high_scale)};
    const __m512i min[2] = {_mm512_and_si512(word[2], low6), _mm512_or_si512(low_min, high_min)};
    for (int b = 0; b < SPAN; b++) {
        _mm512_storeu_ps(s->scale[b], _mm512_mul_ps(d, unsigned_byte(scale[b / 4], b % 4)));
        _mm512_storeu_ps(s->min[b], _mm512_mul_ps(dmin, unsigned_byte(min[b / 4], b % 4)));
    }
}

static inline void scales_q6_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m512 d = half_of_rows(row, offsetof(ce_block_q6_K, d));
    __m512i word[4];
    words_of_rows(word, row, offsetof(ce_block_q6_K, scales));
    for (int b = 0; b < SPAN; b++) {
        _mm512_storeu_ps(s->scale[b], d);
        _mm512_storeu_ps(s->mult[b][0], signed_byte(word[b / 2], 2 * (b % 2)));
        _mm512_storeu_ps(s->mult[b][1], signed_byte(word[b / 2], 2 * (b % 2) + 1));
    }
}

/* ---- The table ---- */

static const block_format format_q4_0 = {.block_bytes = sizeof(ce_block_q4_0),
                                         .sub_blocks = 1,
                                         .offset = 8,
                                         .quants = quants_q4_0,
                                         .scales = scales_q4_0};

static const block_format format_q4_1 = {.block_bytes = sizeof(ce_block_q4_1),
                                         .sub_blocks = 1,
                                         .has_min = true,
                                         .quants = quants_q4_1,
                                         .scales = scales_q4_1};

static const block_format format_q5_0 = {.block_bytes = sizeof(ce_block_q5_0),
                                         .sub_blocks = 1,
                                         .offset = 16,
                                         .quants = quants_q5_0,
                                         .scales = scales_q5_0};

static const block_format format_q5_1 = {.block_bytes = sizeof(ce_block_q5_1),
                                         .sub_blocks = 1,
                                         .has_min = true,
                                         .quants = quants_q5_1,
                                         .scales = scales_q5_1};

static const block_format format_q8_0 = {.block_bytes = sizeof(ce_block_q8_0),
                                         .sub_blocks = 1,
                                         .offset = 128,
                                         .quants = quants_q8_0,
                                         .scales = scales_q8_0};

static const block_format format_q2_K = {.block_bytes = sizeof(ce_block_q2_K),
                                         .sub_blocks = 8,
                                         .has_min = true,
                                         .has_mult = true,
                                         .has_min_mult = true,
                                         .quants = quants_q2_K,
                                         .scales = scales_q2_K};

static const block_format format_q3_K = {.block_bytes = sizeof(ce_block_q3_K),
                                         .sub_blocks = 8,
                                         .offset = 4,
                                         .has_mult = true,
                                         .quants = quants_q3_K,
                                         .scales = scales_q3_K};

static const block_format format_q4_K = {.block_bytes = sizeof(ce_block_q4_K),
                                         .sub_blocks = 8,
                                         .has_min = true,
                                         .quants = quants_q4_K,
                                         .scales = scales_q4_K};

static const block_format format_q5_K = {.block_bytes = sizeof(ce_block_q5_K),
                                         .sub_blocks = 8,
                                         .has_min = true,
                                         .quants = quants_q5_K,
                                         .scales = scales_q4_K};

static const block_format format_q6_K = {.block_bytes = sizeof(ce_block_q6_K),
                                         .sub_blocks = 8,
                                         .offset = 32,
                                         .has_mult = true,
                                         .quants = quants_q6_K,
                                         .scales = scales_q6_K};

#endif
