/* A vector of floats under the names that lanes_*.h use: sixteen, in AVX-512. */
#ifndef CE_AVX512VNNI_LANES_H
#define CE_AVX512VNNI_LANES_H

#include <math.h>

#include <immintrin.h>

#include "inline.h"

typedef __m512 lanes;

/* GROUP heads times 4 keys, and GROUP heads times 4 vectors, and 2 vectors times SIDE rows are sums
 * that fit the registers beside their operands. */
enum { LANES = 16, GROUP = 4, SIDE = 8 };

INLINE __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }

INLINE lanes splat(float x) { return _mm512_set1_ps(x); }
INLINE lanes load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, lanes x) { _mm512_storeu_ps(p, x); }
INLINE lanes load_first(const float *p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
INLINE void store_first(float *p, lanes x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
INLINE lanes add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
INLINE lanes subtract(lanes a, lanes b) { return _mm512_sub_ps(a, b); }
INLINE lanes multiply(lanes a, lanes b) { return _mm512_mul_ps(a, b); }
/* a * b + c */
INLINE lanes fma_lanes(lanes a, lanes b, lanes c) { return _mm512_fmadd_ps(a, b, c); }
/* b where one is no number. */
INLINE lanes larger(lanes a, lanes b) { return _mm512_max_ps(a, b); }

/* The sum of each quarter's four lanes, of four vectors: [quarter][vector]. */
INLINE __m512 sum_quarters(const lanes v[4]) {
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}

/* p[i] = the sum of v[i]'s lanes. */
INLINE void store_4_sums(float *p, const lanes v[4]) {
    const __m512 s = sum_quarters(v);
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

/* Lanes j and j + 8 are added, of these sums j and j + 4, of those j and j + 2, and the last two.
 * Written out: what _mm512_reduce_add_ps does is the compiler's choice. */
INLINE float sum_lanes(lanes v) {
    const __m256 by_8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 by_4 = _mm_add_ps(_mm256_castps256_ps128(by_8), _mm256_extractf128_ps(by_8, 1));
    const __m128 by_2 = _mm_add_ps(by_4, _mm_movehl_ps(by_4, by_4));
    return _mm_cvtss_f32(_mm_add_ss(by_2, _mm_movehdup_ps(by_2)));
}

INLINE float max_lanes(lanes v) { return _mm512_reduce_max_ps(v); }

/* Minus infinity where p is outside [begin[j], end[j]). */
INLINE lanes hide_outside(lanes x, int p, const int *begin, const int *end) {
    const __m512i at = _mm512_set1_epi32(p);
    const __mmask16 seen = _mm512_cmple_epi32_mask(_mm512_loadu_si512(begin), at) &
                           _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(end), at);
    return _mm512_mask_blend_ps(seen, _mm512_set1_ps(-INFINITY), x);
}

INLINE lanes round_lanes(lanes x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^n for integers n. */
INLINE lanes scale_by_power(lanes x, lanes n) { return _mm512_scalef_ps(x, n); }

#endif
