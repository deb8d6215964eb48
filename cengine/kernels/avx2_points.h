/* Points of a grid in AVX2 registers. All x86 tiers use them. Loads and shuffles: a gather takes
 * longer, on some CPUs several times as long. */
#ifndef CE_AVX2_POINTS_H
#define CE_AVX2_POINTS_H

#include <immintrin.h>
#include <stdint.h>

#include "grids.h"
#include "inline.h"

/* 32 columns of a row. */
typedef __m256i row_points;

/* From the i-th point on. */
INLINE __m128i four_points_of_4(const uint32_t *grid, point_indices indices, int i) {
    __m128i v = _mm_cvtsi32_si128((int)grid[point_index(indices, i)]);
    v = _mm_insert_epi32(v, (int)grid[point_index(indices, i + 1)], 1);
    v = _mm_insert_epi32(v, (int)grid[point_index(indices, i + 2)], 2);
    return _mm_insert_epi32(v, (int)grid[point_index(indices, i + 3)], 3);
}

INLINE row_points eight_points_of_4(const uint32_t *grid, point_indices indices) {
    return _mm256_set_m128i(four_points_of_4(grid, indices, 4), four_points_of_4(grid, indices, 0));
}

INLINE __m128i two_points_of_8(const uint64_t *grid, point_indices indices, int i) {
    const __m128i low = _mm_loadl_epi64((const __m128i *)(grid + point_index(indices, i)));
    return (__m128i)_mm_loadh_pi((__m128)low, (const __m64 *)(grid + point_index(indices, i + 1)));
}

INLINE row_points four_points_of_8(const uint64_t *grid, point_indices indices) {
    return _mm256_set_m128i(two_points_of_8(grid, indices, 2), two_points_of_8(grid, indices, 0));
}

#endif
