/* The block types in AVX2 registers: quants of one row, scales of eight rows (lanes = rows). */
#ifndef CE_AVX2_BLOCKS_H
#define CE_AVX2_BLOCKS_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "blocks.h"
#include "inline.h"

/* Rows handled together, and the most blocks of 32 columns between two looks at the scales. */
enum { ROWS = 8, SPAN = 8 };

/* Scales of eight rows over a span: w = (scale * mult) * q - min * min_mult, with the integers mult
 * and min_mult per 16 columns. What a type does not have is left unset. */
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
    int max_quant;  /* the largest absolute value that quants() gives */
    int offset;     /* quants() gives q + offset, as unsigned bytes */
    bool is_signed; /* quants() gives q itself, as signed bytes */
    bool has_min;
    bool has_mult;
    bool has_min_mult; /* besides the other two */
    /* The 32 quants of a sub-block. */
    __m256i (*quants)(const uint8_t *block, int sub);
    /* The scales of n sub-blocks from row[i] on; n is SPAN for the types of 256 columns. */
    void (*scales)(row_scales *s, const uint8_t *const row[ROWS], int n);
} block_format;

static inline __m256i load_256(const void *p) { return _mm256_loadu_si256(p); }

static inline __m256i nibbles(__m256i v, int shift) {
    return _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8(15));
}

/* The half float at row[i] + at of each row. */
static inline __m256 half_of_rows(const uint8_t *const row[ROWS], size_t at) {
    uint16_t h[ROWS];
    for (int i = 0; i < ROWS; i++) {
        memcpy(&h[i], row[i] + at, sizeof h[i]);
    }
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)h));
}

/* The 32-bit word at row[i] + at of each row. */
static inline __m256i word_of_rows(const uint8_t *const row[ROWS], size_t at) {
    uint32_t v[ROWS];
    for (int i = 0; i < ROWS; i++) {
        memcpy(&v[i], row[i] + at, sizeof v[i]);
    }
    return load_256(v);
}

/* The four 32-bit words at row[i] + at of each row: out[j] lane i = word j of row i. */
static inline void words_of_rows(__m256i out[4], const uint8_t *const row[ROWS], size_t at) {
    __m256i v[4]; /* rows i and i + 4 */
    for (int i = 0; i < 4; i++) {
        v[i] =
            _mm256_loadu2_m128i((const __m128i *)(row[i + 4] + at), (const __m128i *)(row[i] + at));
    }
    const __m256i low01 = _mm256_unpacklo_epi32(v[0], v[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(v[2], v[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(v[0], v[1]);
    const __m256i high23 = _mm256_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm256_unpacklo_epi64(low01, low23);
    out[1] = _mm256_unpackhi_epi64(low01, low23);
    out[2] = _mm256_unpacklo_epi64(high01, high23);
    out[3] = _mm256_unpackhi_epi64(high01, high23);
}

/* Byte j of each lane, as a float. */
static inline __m256 unsigned_byte(__m256i v, int j) {
    return _mm256_cvtepi32_ps(
        _mm256_and_si256(_mm256_srli_epi32(v, 8 * j), _mm256_set1_epi32(255)));
}

static inline __m256 signed_byte(__m256i v, int j) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * j), 24));
}

/* The `width` bits of each lane from bit `at` on. */
static inline __m256i field(__m256i v, int at, int width) {
    return _mm256_and_si256(_mm256_srli_epi32(v, at), _mm256_set1_epi32((1 << width) - 1));
}

/* The low 16 bits of each lane, a half float. */
static inline __m256 half_in_lane(__m256i v) {
    const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    return _mm256_cvtph_ps(packed);
}

/* All ones in the bytes whose bit of `mask` is 1. */
static inline __m256i bytes_of_bits(uint32_t mask) {
    const __m256i which =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)mask), which);
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}

/* ---- Blocks of 32 columns ---- */

/* The low nibbles of 16 bytes, then the high ones. */
static inline __m256i low_then_high(const uint8_t *p) {
    const __m128i qs = _mm_loadu_si128((const __m128i *)p);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(qs, 4), qs), _mm256_set1_epi8(15));
}

static inline __m256i with_fifth_bit(__m256i low, uint32_t qh) {
    return _mm256_or_si256(low, _mm256_and_si256(bytes_of_bits(qh), _mm256_set1_epi8(16)));
}

static inline __m256i quants_q4_0(const uint8_t *block, int sub) {
    (void)sub;
    return low_then_high(((const ce_block_q4_0 *)block)->qs);
}

static inline __m256i quants_q4_1(const uint8_t *block, int sub) {
    (void)sub;
    return low_then_high(((const ce_block_q4_1 *)block)->qs);
}

static inline __m256i quants_q5_0(const uint8_t *block, int sub) {
    (void)sub;
    const ce_block_q5_0 *b = (const ce_block_q5_0 *)block;
    return with_fifth_bit(low_then_high(b->qs), b->qh);
}

static inline __m256i quants_q5_1(const uint8_t *block, int sub) {
    (void)sub;
    const ce_block_q5_1 *b = (const ce_block_q5_1 *)block;
    return with_fifth_bit(low_then_high(b->qs), b->qh);
}

static inline __m256i quants_q8_0(const uint8_t *block, int sub) {
    (void)sub;
    return load_256(((const ce_block_q8_0 *)block)->qs);
}

/* A block's scale is its first half float, and its min the second one's negative. */
static inline void scales_of_blocks(row_scales *s, const uint8_t *const row[ROWS], int n,
                                    size_t block_bytes, bool has_min) {
    for (int b = 0; b < n; b++) {
        _mm256_storeu_ps(s->scale[b], half_of_rows(row, b * block_bytes));
        if (has_min) {
            const __m256 m = half_of_rows(row, b * block_bytes + sizeof(uint16_t));
            _mm256_storeu_ps(s->min[b], _mm256_xor_ps(m, _mm256_set1_ps(-0.0f)));
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

static inline __m256i pairs_of_bits(const uint8_t *qs, int sub) {
    const __m256i v = _mm256_srli_epi16(load_256(qs + 32 * (sub / 4)), 2 * (sub % 4));
    return _mm256_and_si256(v, _mm256_set1_epi8(3));
}

static inline __m256i quants_q2_K(const uint8_t *block, int sub) {
    return pairs_of_bits(((const ce_block_q2_K *)block)->qs, sub);
}

static inline __m256i quants_q3_K(const uint8_t *block, int sub) {
    const ce_block_q3_K *b = (const ce_block_q3_K *)block;
    const __m256i high = _mm256_srli_epi16(load_256(b->hmask), sub);
    return _mm256_or_si256(pairs_of_bits(b->qs, sub),
                           _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(1)), 2));
}

static inline __m256i quants_q4_K(const uint8_t *block, int sub) {
    return nibbles(load_256(((const ce_block_q4_K *)block)->qs + 32 * (sub / 2)), 4 * (sub % 2));
}

static inline __m256i quants_q5_K(const uint8_t *block, int sub) {
    const ce_block_q5_K *b = (const ce_block_q5_K *)block;
    const __m256i low = nibbles(load_256(b->qs + 32 * (sub / 2)), 4 * (sub % 2));
    const __m256i high = _mm256_srli_epi16(load_256(b->qh), sub);
    return _mm256_or_si256(low, _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(1)), 4));
}

static inline __m256i quants_q6_K(const uint8_t *block, int sub) {
    const ce_block_q6_K *b = (const ce_block_q6_K *)block;
    const int half = sub / 4, quarter = sub % 4;
    const __m256i low =
        nibbles(load_256(b->ql + 64 * half + 32 * (quarter % 2)), 4 * (quarter / 2));
    return _mm256_or_si256(low, _mm256_slli_epi16(pairs_of_bits(b->qh, sub), 4));
}

static inline void scales_q2_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m256 d = half_of_rows(row, offsetof(ce_block_q2_K, d));
    const __m256 dmin = half_of_rows(row, offsetof(ce_block_q2_K, dmin));
    __m256i word[4];
    words_of_rows(word, row, offsetof(ce_block_q2_K, scales));
    for (int b = 0; b < SPAN; b++) {
        _mm256_storeu_ps(s->scale[b], d);
        _mm256_storeu_ps(s->min[b], dmin);
        for (int h = 0; h < 2; h++) {
            const int at = 16 * (b % 2) + 8 * h;
            _mm256_storeu_ps(s->mult[b][h], _mm256_cvtepi32_ps(field(word[b / 2], at, 4)));
            _mm256_storeu_ps(s->min_mult[b][h], _mm256_cvtepi32_ps(field(word[b / 2], at + 4, 4)));
        }
    }
}

/* The layout is described at q3_K_scale in generic_blocks.h; here four scales at once. */
static inline void scales_q3_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const size_t at = offsetof(ce_block_q3_K, scales);
    const __m256 d = half_of_rows(row, offsetof(ce_block_q3_K, d));
    const __m256i low[2] = {word_of_rows(row, at), word_of_rows(row, at + 4)};
    const __m256i high = word_of_rows(row, at + 8);
    for (int b = 0; b < SPAN; b++) {
        _mm256_storeu_ps(s->scale[b], d);
    }
    for (int j = 0; j < 16; j += 4) {
        const __m256i low4 = nibbles(low[j / 4 % 2], 4 * (j / 8));
        const __m256i high2 = _mm256_and_si256(_mm256_srli_epi32(high, j / 2), _mm256_set1_epi8(3));
        const __m256i scales = _mm256_sub_epi8(_mm256_or_si256(low4, _mm256_slli_epi32(high2, 4)),
                                               _mm256_set1_epi8(32));
        for (int k = 0; k < 4; k++) {
            _mm256_storeu_ps(s->mult[(j + k) / 2][k % 2], signed_byte(scales, k));
        }
    }
}

/* The first 16 bytes of q4_K and q5_K: d and dmin, then 12 bytes of scales and mins. Their layout
 * is described at unpack_scale_min in generic_blocks.h; a word here has four sub-blocks. */
static inline void scales_q4_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m256i low6 = _mm256_set1_epi8(63), low4 = _mm256_set1_epi8(15);
    const __m256i bits45 = _mm256_set1_epi8(0x30);
    __m256i word[4];
    words_of_rows(word, row, 0);
    const __m256 d = half_in_lane(word[0]);
    const __m256 dmin = half_in_lane(_mm256_srli_epi32(word[0], 16));
    const __m256i high_scale = _mm256_and_si256(_mm256_srli_epi32(word[1], 2), bits45);
    const __m256i high_min = _mm256_and_si256(_mm256_srli_epi32(word[2], 2), bits45);
    const __m256i low_min = _mm256_and_si256(_mm256_srli_epi32(word[3], 4), low4);
    const __m256i scale[2] = {_mm256_and_si256(word[1], low6),
                              _mm256_or_si256(_mm256_and_si256(word[3], low4), high_scale)};
    const __m256i min[2] = {_mm256_and_si256(word[2], low6), _mm256_or_si256(low_min, high_min)};
    for (int b = 0; b < SPAN; b++) {
        _mm256_storeu_ps(s->scale[b], _mm256_mul_ps(d, unsigned_byte(scale[b / 4], b % 4)));
        _mm256_storeu_ps(s->min[b], _mm256_mul_ps(dmin, unsigned_byte(min[b / 4], b % 4)));
    }
}

static inline void scales_q6_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m256 d = half_of_rows(row, offsetof(ce_block_q6_K, d));
    __m256i word[4];
    words_of_rows(word, row, offsetof(ce_block_q6_K, scales));
    for (int b = 0; b < SPAN; b++) {
        _mm256_storeu_ps(s->scale[b], d);
        _mm256_storeu_ps(s->mult[b][0], signed_byte(word[b / 2], 2 * (b % 2)));
        _mm256_storeu_ps(s->mult[b][1], signed_byte(word[b / 2], 2 * (b % 2) + 1));
    }
}

/* ---- The table ---- */

static const block_format format_q4_0 = {.block_bytes = sizeof(ce_block_q4_0),
                                         .sub_blocks = 1,
                                         .max_quant = 15,
                                         .offset = 8,
                                         .quants = quants_q4_0,
                                         .scales = scales_q4_0};

static const block_format format_q4_1 = {.block_bytes = sizeof(ce_block_q4_1),
                                         .sub_blocks = 1,
                                         .max_quant = 15,
                                         .has_min = true,
                                         .quants = quants_q4_1,
                                         .scales = scales_q4_1};

static const block_format format_q5_0 = {.block_bytes = sizeof(ce_block_q5_0),
                                         .sub_blocks = 1,
                                         .max_quant = 31,
                                         .offset = 16,
                                         .quants = quants_q5_0,
                                         .scales = scales_q5_0};

static const block_format format_q5_1 = {.block_bytes = sizeof(ce_block_q5_1),
                                         .sub_blocks = 1,
                                         .max_quant = 31,
                                         .has_min = true,
                                         .quants = quants_q5_1,
                                         .scales = scales_q5_1};

static const block_format format_q8_0 = {.block_bytes = sizeof(ce_block_q8_0),
                                         .sub_blocks = 1,
                                         .max_quant = 128,
                                         .is_signed = true,
                                         .quants = quants_q8_0,
                                         .scales = scales_q8_0};

static const block_format format_q2_K = {.block_bytes = sizeof(ce_block_q2_K),
                                         .sub_blocks = 8,
                                         .max_quant = 3,
                                         .has_min = true,
                                         .has_mult = true,
                                         .has_min_mult = true,
                                         .quants = quants_q2_K,
                                         .scales = scales_q2_K};

static const block_format format_q3_K = {.block_bytes = sizeof(ce_block_q3_K),
                                         .sub_blocks = 8,
                                         .max_quant = 7,
                                         .offset = 4,
                                         .has_mult = true,
                                         .quants = quants_q3_K,
                                         .scales = scales_q3_K};

static const block_format format_q4_K = {.block_bytes = sizeof(ce_block_q4_K),
                                         .sub_blocks = 8,
                                         .max_quant = 15,
                                         .has_min = true,
                                         .quants = quants_q4_K,
                                         .scales = scales_q4_K};

static const block_format format_q5_K = {.block_bytes = sizeof(ce_block_q5_K),
                                         .sub_blocks = 8,
                                         .max_quant = 31,
                                         .has_min = true,
                                         .quants = quants_q5_K,
                                         .scales = scales_q4_K};

static const block_format format_q6_K = {.block_bytes = sizeof(ce_block_q6_K),
                                         .sub_blocks = 8,
                                         .max_quant = 63,
                                         .offset = 32,
                                         .has_mult = true,
                                         .quants = quants_q6_K,
                                         .scales = scales_q6_K};

#endif
