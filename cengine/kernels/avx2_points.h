/* Points of a grid in AVX2 registers. All x86 tiers use them. Loads and shuffles: a gather takes
 * longer, on some CPUs several times as long. */
#ifndef CE_AVX2_POINTS_H
#define CE_AVX2_POINTS_H

#include <immintrin.h>
#include <stdint.h>

#include "grids.h"
#include "inline.h"

/* 32 columns of a row. The i-th point's index is index[i * step]. */
typedef __m256i row_points;

INLINE __m128i four_points_of_4(const uint32_t *grid, const uint32_t *index, int step) {
    __m128i v = _mm_cvtsi32_si128((int)grid[index[0]]);
    v = _mm_insert_epi32(v, (int)grid[index[step]], 1);
    v = _mm_insert_epi32(v, (int)grid[index[2 * step]], 2);
    return _mm_insert_epi32(v, (int)grid[index[3 * step]], 3);
}

INLINE row_points eight_points_of_4(const uint32_t *grid, const uint32_t *index, int step) {
    return _mm256_set_m128i(four_points_of_4(grid, index + 4 * step, step),
                            four_points_of_4(grid, index, step));
}

INLINE __m128i two_points_of_8(const uint64_t *grid, const uint32_t *index, int step) {
    const __m128i low = _mm_loadl_epi64((const __m128i *)(grid + index[0]));
    return (__m128i)_mm_loadh_pi((__m128)low, (const __m64 *)(grid + index[step]));
}

INLINE row_points four_points_of_8(const uint64_t *grid, const uint32_t *index, int step) {
    return _mm256_set_m128i(two_points_of_8(grid, index + 2 * step, step),
                            two_points_of_8(grid, index, step));
}

#endif
