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

/* Scales of sixteen rows over a span: w = (scale * mult) * q - min, with a mult per 16 columns.
 * What a type does not have is left unset. */
typedef struct {
    float scale[SPAN][ROWS];
    float min[SPAN][ROWS];
    float mult[SPAN][2][ROWS];
} row_scales;

/* What the matmuls need to know of a type. */
typedef struct {
    size_t block_bytes;
    int sub_blocks; /* of 32 columns, in a block */
    int offset;     /* quants() gives q + offset, as unsigned bytes */
    bool has_min;
    bool has_mult;
    /* The 32 quants of a sub-block of row a (low half) and of row b (high half). */
    __m512i (*quants)(const uint8_t *a, const uint8_t *b, int sub);
    /* The scales of n sub-blocks from row[i] on; n is SPAN for the K types. */
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

/* The low 16 bits of each lane, a half float. */
static inline __m512 half_in_lane(__m512i v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }

/* ---- q4_0, q8_0 ---- */

static inline __m512i quants_q4_0(const uint8_t *a, const uint8_t *b, int sub) {
    (void)sub;
    const __m128i qa = load_128(((const ce_block_q4_0 *)a)->qs);
    const __m128i qb = load_128(((const ce_block_q4_0 *)b)->qs);
    const __m256i pair = _mm256_set_m128i(qb, qa);
    const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3),
                                                   _mm512_castsi256_si512(pair));
    const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    return _mm512_and_si512(_mm512_srlv_epi64(twice, shift), _mm512_set1_epi8(15));
}

static inline __m512i quants_q8_0(const uint8_t *a, const uint8_t *b, int sub) {
    (void)sub;
    const __m512i q = load_pair(((const ce_block_q8_0 *)a)->qs, ((const ce_block_q8_0 *)b)->qs);
    return _mm512_xor_si512(q, _mm512_set1_epi8((char)0x80));
}

static inline void scales_q4_0(row_scales *s, const uint8_t *const row[ROWS], int n) {
    for (int b = 0; b < n; b++) {
        _mm512_storeu_ps(s->scale[b], half_of_rows(row, b * sizeof(ce_block_q4_0)));
    }
}

static inline void scales_q8_0(row_scales *s, const uint8_t *const row[ROWS], int n) {
    for (int b = 0; b < n; b++) {
        _mm512_storeu_ps(s->scale[b], half_of_rows(row, b * sizeof(ce_block_q8_0)));
    }
}

/* ---- K types ---- */

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
    const __m512i high = bits(load_pair(ba->qh + 32 * half, bb->qh + 32 * half), 2 * quarter, 3);
    return _mm512_or_si512(low, _mm512_slli_epi16(high, 4));
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

static const block_format format_q8_0 = {.block_bytes = sizeof(ce_block_q8_0),
                                         .sub_blocks = 1,
                                         .offset = 128,
                                         .quants = quants_q8_0,
                                         .scales = scales_q8_0};

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
