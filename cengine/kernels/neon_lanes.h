/* A vector of floats under the names that lanes_*.h use: four, in NEON. */
#ifndef CE_NEON_LANES_H
#define CE_NEON_LANES_H

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "inline.h"

typedef float32x4_t lanes;

/* GROUP heads times 4 keys, and GROUP heads times 4 vectors, and 2 vectors times SIDE rows are sums
 * that fit the registers beside their operands. */
enum { LANES = 4, GROUP = 4, SIDE = 8 };

INLINE lanes splat(float x) { return vdupq_n_f32(x); }
INLINE lanes load(const float *p) { return vld1q_f32(p); }
INLINE void store(float *p, lanes x) { vst1q_f32(p, x); }
INLINE lanes add(lanes a, lanes b) { return vaddq_f32(a, b); }
INLINE lanes subtract(lanes a, lanes b) { return vsubq_f32(a, b); }
INLINE lanes multiply(lanes a, lanes b) { return vmulq_f32(a, b); }
INLINE lanes divide(lanes a, lanes b) { return vdivq_f32(a, b); }
/* a * b + c */
INLINE lanes fma_lanes(lanes a, lanes b, lanes c) { return vfmaq_f32(c, a, b); }
/* b where one is no number. */
INLINE lanes larger(lanes a, lanes b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE lanes smaller(lanes a, lanes b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

INLINE lanes load_first(const float *p, int n) {
    float v[LANES] = {0};
    memcpy(v, p, (size_t)n * sizeof *v);
    return load(v);
}

INLINE void store_first(float *p, lanes x, int n) {
    float v[LANES];
    store(v, x);
    memcpy(p, v, (size_t)n * sizeof *v);
}

/* p[i] = the sum of v[i]'s lanes. */
INLINE void store_4_sums(float *p, const lanes v[4]) {
    store(p, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
}

/* (0+1) + (2+3) */
INLINE float sum_lanes(lanes v) { return vaddvq_f32(v); }
INLINE float max_lanes(lanes v) { return vmaxvq_f32(v); }

/* Minus infinity where p is outside [begin[j], end[j]). */
INLINE lanes hide_outside(lanes x, int p, const int *begin, const int *end) {
    const int32x4_t at = vdupq_n_s32(p);
    const uint32x4_t seen =
        vandq_u32(vcleq_s32(vld1q_s32(begin), at), vcgtq_s32(vld1q_s32(end), at));
    return vbslq_f32(seen, x, splat(-INFINITY));
}

INLINE lanes round_lanes(lanes x) { return vrndnq_f32(x); }

/* 2^n for -126 <= n <= 127 */
INLINE lanes power_of_2(int32x4_t n) {
    return (lanes)vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23);
}

/* x * 2^n for integers n from -200 to 200, in two steps, which reach subnormals. */
INLINE lanes scale_by_power(lanes x, lanes n) {
    const int32x4_t exponent = vcvtq_s32_f32(n), half = vshrq_n_s32(exponent, 1);
    return multiply(multiply(x, power_of_2(half)), power_of_2(vsubq_s32(exponent, half)));
}

#endif
