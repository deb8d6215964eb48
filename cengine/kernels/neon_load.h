/* Four elements as float lanes, from any address; a tail is not read past. */
#ifndef CE_NEON_LOAD_H
#define CE_NEON_LOAD_H

#include <stdint.h>

#include "neon_lanes.h"

INLINE uint16x4_t load_4_halves(const void *row, int i) {
    return vld1_u16((const uint16_t *)((const char *)row + 2 * (size_t)i));
}

INLINE uint16x4_t load_n_halves(const void *row, int i, int n) {
    uint16_t v[LANES] = {0};
    memcpy(v, (const char *)row + 2 * (size_t)i, (size_t)n * sizeof *v);
    return vld1_u16(v);
}

INLINE lanes widen_f16(uint16x4_t v) { return vcvt_f32_f16((float16x4_t)v); }
INLINE lanes widen_bf16(uint16x4_t v) { return (lanes)vshll_n_u16(v, 16); }

INLINE lanes load_f32(const void *row, int i) { return load((const float *)row + i); }

INLINE lanes load_tail_f32(const void *row, int i, int n) {
    return load_first((const float *)row + i, n);
}

INLINE lanes load_f16(const void *row, int i) { return widen_f16(load_4_halves(row, i)); }

INLINE lanes load_tail_f16(const void *row, int i, int n) {
    return widen_f16(load_n_halves(row, i, n));
}

INLINE lanes splat_half(uint16_t h) { return widen_f16(vdup_n_u16(h)); }

INLINE lanes load_int8(const int8_t *p) {
    int8_t v[8] = {0};
    memcpy(v, p, LANES);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(v)))));
}

INLINE lanes load_bf16(const void *row, int i) { return widen_bf16(load_4_halves(row, i)); }

INLINE lanes load_tail_bf16(const void *row, int i, int n) {
    return widen_bf16(load_n_halves(row, i, n));
}

#endif
