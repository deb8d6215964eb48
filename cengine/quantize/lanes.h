/* A vector of floats, one for each of several sub-blocks that are quantized side by side. Every
 * lane is computed on its own, in one order and without fused multiply-adds, so that the bytes of a
 * file do not depend on the instruction set. */
#ifndef CE_QUANTIZE_LANES_H
#define CE_QUANTIZE_LANES_H

#include <stdint.h>

#include "generic_half.h"
#include "inline.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* All functions here are inlined: no vector crosses a real call. */
#pragma GCC diagnostic ignored "-Wpsabi"

#if defined(__AVX512F__)
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES))); /* a lane is 0 or -1 */

INLINE lanes splat(float v) { return v - (lanes){0}; }

INLINE lanes select(mask m, lanes yes, lanes no) {
    return (lanes)((m & (mask)yes) | (~m & (mask)no));
}

INLINE lanes lanes_min(lanes a, lanes b) {
#if defined(__AVX512F__)
    return (lanes)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (lanes)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return select(a < b, a, b);
#endif
}

INLINE lanes lanes_max(lanes a, lanes b) {
#if defined(__AVX512F__)
    return (lanes)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (lanes)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return select(a > b, a, b);
#endif
}

INLINE lanes lanes_sqrt(lanes a) {
#if defined(__AVX512F__)
    return (lanes)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
    return (lanes)_mm256_sqrt_ps((__m256)a);
#else
    for (int j = 0; j < LANES; j++) {
        a[j] = __builtin_sqrtf(a[j]);
    }
    return a;
#endif
}

INLINE lanes lanes_abs(lanes a) { return (lanes)((mask)a & 0x7fffffff); }

INLINE lanes clamp(lanes v, float low, float high) {
    return lanes_min(lanes_max(v, splat(low)), splat(high));
}

/* To the nearest integer, halves to even, for |v| < 2^22: 1.5 * 2^23 leaves no room for fractions.
 */
INLINE lanes nearest(lanes v) { return (v + 0x1.8p23f) - 0x1.8p23f; }

/* What remains of v in half precision. */
INLINE lanes to_half_and_back(lanes v) {
    for (int j = 0; j < LANES; j++) {
        v[j] = f16_to_f32(f32_to_f16(v[j]));
    }
    return v;
}

/* a / b, or 0 where b is no positive number. */
INLINE lanes ratio(lanes a, lanes b) {
    const mask valid = b > 0;
    return select(valid, a / select(valid, b, splat(1)), splat(0));
}

#endif
