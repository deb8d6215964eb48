/* The points of the grid types in AVX2 registers, 32 columns at a time, and their signs, a bit per
 * column. Both x86 tiers use them. Indices come out of 32- or 64-bit words by shifts: bytes that
 * are loaded one by one cost twice as much. */
#ifndef CE_AVX2_POINTS_H
#define CE_AVX2_POINTS_H

#include <immintrin.h>
#include <string.h>

#include "blocks.h"
#include "grids.h"

static inline uint32_t load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load_u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Byte i of v, as the low byte of an index. */
static inline unsigned low_byte(uint64_t v, int i) { return (unsigned)(v >> (8 * i)) & 255; }

/* Four rows of a grid of points of 8. */
static inline __m256i four_points(const uint64_t *grid, unsigned a, unsigned b, unsigned c,
                                  unsigned d) {
    return _mm256_setr_epi64x((int64_t)grid[a], (int64_t)grid[b], (int64_t)grid[c],
                              (int64_t)grid[d]);
}

/* Four rows of a grid of points of 4. */
static inline __m128i four_short_points(const uint32_t *grid, unsigned a, unsigned b, unsigned c,
                                        unsigned d) {
    return _mm_setr_epi32((int)grid[a], (int)grid[b], (int)grid[c], (int)grid[d]);
}

/* ---- iq3_xxs, iq3_s ---- */

static inline __m256i points_iq3_xxs(const uint8_t *block, int sub) {
    const uint64_t q = load_u64(((const ce_block_iq3_xxs *)block)->qs + 8 * sub);
    const uint32_t *grid = ce_iq3_xxs_grid;
    return _mm256_set_m128i(
        four_short_points(grid, low_byte(q, 4), low_byte(q, 5), low_byte(q, 6), low_byte(q, 7)),
        four_short_points(grid, low_byte(q, 0), low_byte(q, 1), low_byte(q, 2), low_byte(q, 3)));
}

static inline uint32_t signs_iq3_xxs(const uint8_t *block, int sub) {
    return unpack_signs(((const ce_block_iq3_xxs *)block)->signs[sub]);
}

static inline unsigned index_iq3_s(uint64_t q, unsigned high, int i) {
    return low_byte(q, i) | (high << (8 - i) & 0x100);
}

static inline __m256i points_iq3_s(const uint8_t *block, int sub) {
    const ce_block_iq3_s *b = (const ce_block_iq3_s *)block;
    const uint64_t q = load_u64(b->qs + 8 * sub);
    const unsigned h = b->qh[sub];
    const uint32_t *grid = ce_iq3_s_grid;
    return _mm256_set_m128i(four_short_points(grid, index_iq3_s(q, h, 4), index_iq3_s(q, h, 5),
                                              index_iq3_s(q, h, 6), index_iq3_s(q, h, 7)),
                            four_short_points(grid, index_iq3_s(q, h, 0), index_iq3_s(q, h, 1),
                                              index_iq3_s(q, h, 2), index_iq3_s(q, h, 3)));
}

static inline uint32_t signs_iq3_s(const uint8_t *block, int sub) {
    return load_u32(((const ce_block_iq3_s *)block)->signs + 4 * sub);
}

/* ---- iq2_xxs, iq2_xs, iq2_s ---- */

static inline __m256i points_iq2_xxs(const uint8_t *block, int sub) {
    const uint32_t q = load_u32(((const ce_block_iq2_xxs *)block)->sub[sub].qs);
    return four_points(ce_iq2_xxs_grid, low_byte(q, 0), low_byte(q, 1), low_byte(q, 2),
                       low_byte(q, 3));
}

static inline uint32_t signs_iq2_xxs(const uint8_t *block, int sub) {
    return unpack_signs(((const ce_block_iq2_xxs *)block)->sub[sub].signs);
}

/* Four words: indices of 9 bits, and above them signs of 7. */
static inline uint64_t words_iq2_xs(const uint8_t *block, int sub) {
    return load_u64(block + offsetof(ce_block_iq2_xs, qs) + 8 * (size_t)sub);
}

static inline __m256i points_iq2_xs(const uint8_t *block, int sub) {
    const uint64_t q = words_iq2_xs(block, sub);
    return four_points(ce_iq2_xs_grid, q & 511, q >> 16 & 511, q >> 32 & 511, q >> 48 & 511);
}

static inline uint32_t signs_iq2_xs(const uint8_t *block, int sub) {
    const uint64_t q = words_iq2_xs(block, sub);
    return even_signs((uint32_t)((q >> 9 & 0x7f) | (q >> 17 & 0x7f00) | (q >> 25 & 0x7f0000) |
                                 (q >> 33 & 0x7f000000)));
}

static inline unsigned index_iq2_s(uint32_t q, unsigned high, int i) {
    return low_byte(q, i) | (high << (8 - 2 * i) & 0x300);
}

static inline __m256i points_iq2_s(const uint8_t *block, int sub) {
    const ce_block_iq2_s *b = (const ce_block_iq2_s *)block;
    const uint32_t q = load_u32(b->qs + 4 * sub);
    const unsigned h = b->qh[sub];
    return four_points(ce_iq2_s_grid, index_iq2_s(q, h, 0), index_iq2_s(q, h, 1),
                       index_iq2_s(q, h, 2), index_iq2_s(q, h, 3));
}

static inline uint32_t signs_iq2_s(const uint8_t *block, int sub) {
    return load_u32(((const ce_block_iq2_s *)block)->signs + 4 * sub);
}

/* ---- iq1_s, iq1_m: in eighths, the 1 more or less not yet added ---- */

static inline unsigned index_iq1(uint32_t q, unsigned high, int i) {
    return low_byte(q, i) | (high & 7) << 8;
}

static inline __m256i points_iq1_s(const uint8_t *block, int sub) {
    const ce_block_iq1_s *b = (const ce_block_iq1_s *)block;
    const uint32_t q = load_u32(b->qs + 4 * sub);
    const unsigned h = b->qh[sub];
    return four_points(ce_iq1_grid, index_iq1(q, h, 0), index_iq1(q, h >> 3, 1),
                       index_iq1(q, h >> 6, 2), index_iq1(q, h >> 9, 3));
}

/* Four nibbles of the points' high bits and shifts. */
static inline unsigned nibbles_iq1_m(const uint8_t *block, int sub) {
    const uint8_t *qh = ((const ce_block_iq1_m *)block)->qh + 2 * sub;
    return qh[0] | (unsigned)qh[1] << 8;
}

static inline __m256i points_iq1_m(const uint8_t *block, int sub) {
    const uint32_t q = load_u32(((const ce_block_iq1_m *)block)->qs + 4 * sub);
    const unsigned h = nibbles_iq1_m(block, sub);
    return four_points(ce_iq1_grid, index_iq1(q, h, 0), index_iq1(q, h >> 4, 1),
                       index_iq1(q, h >> 8, 2), index_iq1(q, h >> 12, 3));
}

#endif
