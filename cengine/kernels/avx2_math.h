/* exp, and sums and maxima over lanes, in AVX2 registers. */
#ifndef CE_AVX2_MATH_H
#define CE_AVX2_MATH_H

#include <immintrin.h>

static inline __m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* ((0+1) + (2+3)) + ((4+5) + (6+7)) */
static inline float sum_lanes(__m256 v) {
    v = _mm256_hadd_ps(v, v);
    v = _mm256_hadd_ps(v, v);
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)));
}

/* The same for four vectors at once. */
static inline __m128 sum_lanes_of_4(const __m256 v[4]) {
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

static inline float max_lanes(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* 2^n for -126 <= n <= 127 */
static inline __m256 power_of_2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* exp(x) = 2^n exp(r) with n = rint(x / ln 2) and r = x - n ln 2, ln 2 in two parts (Cody and
 * Waite), |r| <= 0.35; exp(r) by its Taylor series to r^7 (truncation below 6e-9). Within 2 ulp
 * where the result is normal; the scaling by 2^n in two steps reaches subnormals, 0 and infinity. A
 * NaN stays. */
static inline __m256 exp_lanes(__m256 x) {
    static const float inverse_factorial[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                                              1.0f / 6,    1.0f / 2,   1.0f,       1.0f};
    x = _mm256_min_ps(_mm256_set1_ps(89.0f), _mm256_max_ps(_mm256_set1_ps(-104.0f), x));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e400p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(inverse_factorial[0]);
    for (int i = 1; i < 8; i++) {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(inverse_factorial[i]));
    }
    const __m256i exponent = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(exponent, 1);
    p = _mm256_mul_ps(p, power_of_2(half));
    return _mm256_mul_ps(p, power_of_2(_mm256_sub_epi32(exponent, half)));
}

#endif
