/* Q8_0 and the types before the K-quants, 32 columns with a scale: one formula, no search, so that
 * the bytes equal those of every other implementation. See legacy_search.h for an importance. */
#ifndef CE_QUANTIZE_LEGACY_H
#define CE_QUANTIZE_LEGACY_H

#include <math.h>

#include "blocks.h"
#include "generic_half.h"

/* Of the value with the largest magnitude, the first one where several have it. */
static inline float largest_of(const float x[CE_QK]) {
    float largest = x[0];
    for (int i = 1; i < CE_QK; i++) {
        largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    }
    return largest;
}

static inline float inverse_of(float d) { return d == 0 ? 0 : 1 / d; }

/* (int)(v + 0.5), at most n_max: v is never below -0.5 by more than rounding. */
static inline uint8_t truncated(float v, int n_max) {
    const int q = (int)v;
    return (uint8_t)(q < n_max ? q : n_max);
}

/* d = largest / -half, q = x / d + half */
static inline float codes_around_zero(uint8_t q[CE_QK], const float x[CE_QK], int half) {
    const float d = largest_of(x) / (float)-half;
    const float inverse = inverse_of(d);
    for (int i = 0; i < CE_QK; i++) {
        q[i] = truncated(x[i] * inverse + ((float)half + 0.5f), 2 * half - 1);
    }
    return d;
}

/* d = (max - min) / n_max, q = (x - min) / d */
static inline float codes_from_min(uint8_t q[CE_QK], const float x[CE_QK], int n_max, float *min) {
    float low = x[0], high = x[0];
    for (int i = 1; i < CE_QK; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    const float d = (high - low) / (float)n_max;
    const float inverse = inverse_of(d);
    for (int i = 0; i < CE_QK; i++) {
        q[i] = truncated((x[i] - low) * inverse + 0.5f, n_max);
    }
    *min = low;
    return d;
}

static inline void pack_nibbles(uint8_t qs[16], const uint8_t q[CE_QK]) {
    for (int i = 0; i < 16; i++) {
        qs[i] = (uint8_t)((q[i] & 15) | (q[16 + i] & 15) << 4);
    }
}

static inline uint32_t fifth_bits(const uint8_t q[CE_QK]) {
    uint32_t bits = 0;
    for (int i = 0; i < CE_QK; i++) {
        bits |= (uint32_t)(q[i] >> 4) << i;
    }
    return bits;
}

static inline void encode_q4_0(ce_block_q4_0 *block, const float *x) {
    uint8_t q[CE_QK];
    block->d = f32_to_f16(codes_around_zero(q, x, 8));
    pack_nibbles(block->qs, q);
}

static inline void encode_q4_1(ce_block_q4_1 *block, const float *x) {
    uint8_t q[CE_QK];
    float min;
    block->d = f32_to_f16(codes_from_min(q, x, 15, &min));
    block->m = f32_to_f16(min);
    pack_nibbles(block->qs, q);
}

static inline void encode_q5_0(ce_block_q5_0 *block, const float *x) {
    uint8_t q[CE_QK];
    block->d = f32_to_f16(codes_around_zero(q, x, 16));
    block->qh = fifth_bits(q);
    pack_nibbles(block->qs, q);
}

static inline void encode_q5_1(ce_block_q5_1 *block, const float *x) {
    uint8_t q[CE_QK];
    float min;
    block->d = f32_to_f16(codes_from_min(q, x, 31, &min));
    block->m = f32_to_f16(min);
    block->qh = fifth_bits(q);
    pack_nibbles(block->qs, q);
}

/* d = max |x| / 127; q = x / d, halves rounded away from zero. */
static inline void encode_q8_0(ce_block_q8_0 *block, const float *x) {
    const float d = fabsf(largest_of(x)) / 127;
    const float inverse = inverse_of(d);
    block->d = f32_to_f16(d);
    for (int i = 0; i < CE_QK; i++) {
        const float v = x[i] * inverse;
        const int whole = (int)v;
        const float rest = v - (float)whole;
        block->qs[i] = (int8_t)(whole + (rest >= 0.5f) - (rest <= -0.5f));
    }
}

#endif
