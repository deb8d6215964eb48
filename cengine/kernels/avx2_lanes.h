/* A vector of floats under the names that lanes_*.h use: eight, in AVX2. */
#ifndef CE_AVX2_LANES_H
#define CE_AVX2_LANES_H

#include <math.h>

#include "avx2_math.h"
#include "inline.h"

typedef __m256 lanes;

/* GROUP heads times 4 keys, and GROUP heads times 4 vectors, and 2 vectors times SIDE rows are sums
 * that fit the registers beside their operands. */
enum { LANES = 8, GROUP = 2, SIDE = 4 };

INLINE lanes splat(float x) { return _mm256_set1_ps(x); }
INLINE lanes load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, lanes x) { _mm256_storeu_ps(p, x); }
INLINE lanes load_first(const float *p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
INLINE void store_first(float *p, lanes x, int n) { _mm256_maskstore_ps(p, first_lanes(n), x); }
INLINE lanes add(lanes a, lanes b) { return _mm256_add_ps(a, b); }
INLINE lanes subtract(lanes a, lanes b) { return _mm256_sub_ps(a, b); }
INLINE lanes multiply(lanes a, lanes b) { return _mm256_mul_ps(a, b); }
INLINE lanes divide(lanes a, lanes b) { return _mm256_div_ps(a, b); }
/* a * b + c */
INLINE lanes fma_lanes(lanes a, lanes b, lanes c) { return _mm256_fmadd_ps(a, b, c); }
/* b where one is no number. */
INLINE lanes larger(lanes a, lanes b) { return _mm256_max_ps(a, b); }
INLINE lanes smaller(lanes a, lanes b) { return _mm256_min_ps(a, b); }

/* p[i] = the sum of v[i]'s lanes. */
INLINE void store_4_sums(float *p, const lanes v[4]) { _mm_storeu_ps(p, sum_lanes_of_4(v)); }

/* Minus infinity where p is outside [begin[j], end[j]). */
INLINE lanes hide_outside(lanes x, int p, const int *begin, const int *end) {
    const __m256i at = _mm256_set1_epi32(p);
    const __m256i early = _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)begin), at);
    const __m256i in_time = _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)end), at);
    const __m256 seen = _mm256_castsi256_ps(_mm256_andnot_si256(early, in_time));
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x, seen);
}

INLINE lanes round_lanes(lanes x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^n for integers n from -200 to 200, in two steps, which reach subnormals. */
INLINE lanes scale_by_power(lanes x, lanes n) {
    const __m256i exponent = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(exponent, 1);
    x = _mm256_mul_ps(x, power_of_2(half));
    return _mm256_mul_ps(x, power_of_2(_mm256_sub_epi32(exponent, half)));
}

#endif
