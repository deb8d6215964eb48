/* The points of the grid types in AVX2 registers, 32 columns at a time of one row. All x86 tiers
 * use them. */
#ifndef CE_AVX2_POINTS_H
#define CE_AVX2_POINTS_H

#include <immintrin.h>

#include "rows_points.h"

/* 32 columns of a row. */
typedef __m256i row_points;

/* Rows of a grid of points of 4, and of points of 8. */
static inline __m256i eight_points_of_4(const uint32_t *grid, __m256i index) {
    return _mm256_i32gather_epi32((const int *)grid, index, sizeof *grid);
}

static inline __m256i four_points_of_8(const uint64_t *grid, __m128i index) {
    return _mm256_i32gather_epi64((const long long *)grid, index, sizeof *grid);
}

/* Four bytes as the low bits of indices, with high bits of their own. */
static inline __m128i four_indices(const uint8_t *low, __m128i high) {
    return _mm_or_si128(_mm_cvtepu8_epi32(_mm_cvtsi32_si128((int)load_u32(low))), high);
}

static inline __m256i eight_bytes(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

/* ---- iq3_xxs, iq3_s ---- */

static inline __m256i points_iq3_xxs(const uint8_t *block, int sub) {
    const uint8_t *qs = ((const ce_block_iq3_xxs *)block)->qs + 8 * sub;
    return eight_points_of_4(ce_iq3_xxs_grid, eight_bytes(qs));
}

static inline __m256i points_iq3_s(const uint8_t *block, int sub) {
    const ce_block_iq3_s *b = (const ce_block_iq3_s *)block;
    const __m256i to_bit_8 = _mm256_setr_epi32(8, 7, 6, 5, 4, 3, 2, 1);
    const __m256i high = _mm256_and_si256(
        _mm256_sllv_epi32(_mm256_set1_epi32(b->qh[sub]), to_bit_8), _mm256_set1_epi32(0x100));
    return eight_points_of_4(ce_iq3_s_grid, _mm256_or_si256(eight_bytes(b->qs + 8 * sub), high));
}

/* ---- iq2_xxs, iq2_xs, iq2_s ---- */

static inline __m256i points_iq2_xxs(const uint8_t *block, int sub) {
    const uint8_t *qs = ((const ce_block_iq2_xxs *)block)->sub[sub].qs;
    return four_points_of_8(ce_iq2_xxs_grid, four_indices(qs, _mm_setzero_si128()));
}

static inline __m256i points_iq2_xs(const uint8_t *block, int sub) {
    const __m128i words = _mm_cvtsi64_si128((int64_t)words_iq2_xs(block, sub));
    return four_points_of_8(ce_iq2_xs_grid,
                            _mm_and_si128(_mm_cvtepu16_epi32(words), _mm_set1_epi32(511)));
}

static inline __m256i points_iq2_s(const uint8_t *block, int sub) {
    const ce_block_iq2_s *b = (const ce_block_iq2_s *)block;
    const __m128i pairs = _mm_sllv_epi32(_mm_set1_epi32(b->qh[sub]), _mm_setr_epi32(8, 6, 4, 2));
    const __m128i high = _mm_and_si128(pairs, _mm_set1_epi32(0x300));
    return four_points_of_8(ce_iq2_s_grid, four_indices(b->qs + 4 * sub, high));
}

/* ---- iq1_s, iq1_m: in eighths, with the one more or less, and IQ1_OFFSET ---- */

/* Three high bits of each index, `step` bits apart. */
static inline __m256i points_iq1(const uint8_t *qs, unsigned high, int step) {
    const __m128i shift = _mm_setr_epi32(0, step, 2 * step, 3 * step);
    const __m128i threes = _mm_srlv_epi32(_mm_set1_epi32((int)(high << 8)), shift);
    return four_points_of_8(ce_iq1_grid,
                            four_indices(qs, _mm_and_si128(threes, _mm_set1_epi32(0x700))));
}

static inline __m256i shifted_points_iq1_s(const uint8_t *block, int sub) {
    const ce_block_iq1_s *b = (const ce_block_iq1_s *)block;
    const int down = b->qh[sub] >> 15;
    return _mm256_add_epi8(points_iq1(b->qs + 4 * sub, b->qh[sub], 3),
                           _mm256_set1_epi8((char)(IQ1_OFFSET + 1 - 2 * down)));
}

static inline __m256i shifted_points_iq1_m(const uint8_t *block, int sub) {
    const ce_block_iq1_m *b = (const ce_block_iq1_m *)block;
    const unsigned nibbles = nibbles_iq1_m(block, sub);
    const __m256i top = _mm256_setr_epi64x(0x0008000800080008, 0x0080008000800080,
                                           0x0800080008000800, (int64_t)0x8000800080008000);
    const __m256i all = _mm256_set1_epi16((short)nibbles);
    const __m256i down = _mm256_cmpeq_epi16(_mm256_and_si256(all, top), top);
    const __m256i up =
        _mm256_add_epi8(points_iq1(b->qs + 4 * sub, nibbles, 4), _mm256_set1_epi8(IQ1_OFFSET + 1));
    return _mm256_sub_epi8(up, _mm256_and_si256(down, _mm256_set1_epi8(2)));
}

#endif
