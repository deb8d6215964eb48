/* The small operations in NEON: activations to int8, KV precision and back, RMSNorm, SiLU. */
#include <float.h>

#include "blocks.h"
#include "neon.h"
#include "neon_load.h"

#include "lanes_ops.h"

/* ---- Activations to int8: the formula of quantize_block in generic_ops.c ---- */

enum { PARTS = CE_ACT_BLOCK / LANES };

/* The largest bit pattern of |x|: NaNs are above infinity, and that above all numbers. */
static inline uint32_t max_magnitude(const lanes x[PARTS]) {
    uint32x4_t m = vdupq_n_u32(0);
    for (int i = 0; i < PARTS; i++) {
        m = vmaxq_u32(m, vandq_u32((uint32x4_t)x[i], vdupq_n_u32(0x7fffffff)));
    }
    return vmaxvq_u32(m);
}

static inline void store_bytes(int8_t *q, const int32x4_t v[PARTS]) {
    for (int i = 0; i < PARTS; i += 4) {
        const int16x8_t low = vcombine_s16(vmovn_s32(v[i]), vmovn_s32(v[i + 1]));
        const int16x8_t high = vcombine_s16(vmovn_s32(v[i + 2]), vmovn_s32(v[i + 3]));
        vst1q_s8(q + LANES * i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }
}

static void quantize_block(int8_t *q, float *scale, ce_act_sums *sums, const float *p) {
    lanes x[PARTS];
    for (int i = 0; i < PARTS; i++) {
        x[i] = load(p + LANES * i);
    }
    const uint32_t amax_bits = max_magnitude(x);
    float amax;
    memcpy(&amax, &amax_bits, sizeof amax);
    const float inverse = 127.0f / amax;
    int32x4_t v[PARTS] = {0}, half[2] = {0};
    if (amax_bits >= 0x7f800000) {
        *scale = NAN;
    } else if (inverse > FLT_MAX) {
        *scale = 0.0f;
    } else {
        *scale = amax / 127.0f;
        for (int i = 0; i < PARTS; i++) {
            v[i] = vcvtnq_s32_f32(multiply(x[i], splat(inverse)));
            half[i * 2 / PARTS] = vaddq_s32(half[i * 2 / PARTS], v[i]);
        }
    }
    const int32_t low = vaddvq_s32(half[0]), high = vaddvq_s32(half[1]);
    *sums = ce_act_sums_of(low, high, *scale);
    store_bytes(q, v);
}

static void quantize_act(int8_t *q, float *scale, ce_act_sums *sums, const float *x, int n) {
    for (int b = 0; b < n / CE_ACT_BLOCK; b++) {
        quantize_block(q + CE_ACT_BLOCK * b, scale + b, sums + b, x + CE_ACT_BLOCK * b);
    }
}

/* ---- KV precision and back ---- */

static void row_f32_to_f16(uint16_t *dst, const float *src, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        vst1_u16(dst + i, (uint16x4_t)vcvt_f16_f32(load(src + i)));
    }
    if (i < n) {
        const uint16x4_t v = (uint16x4_t)vcvt_f16_f32(load_first(src + i, n - i));
        memcpy(dst + i, &v, (size_t)(n - i) * sizeof *dst);
    }
}

static void row_f16_to_f32(float *dst, const void *src, int64_t n) {
    const char *halves = src;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(dst + i, load_f16(halves + 2 * i, 0));
    }
    if (i < n) {
        const int rest = (int)(n - i);
        store_first(dst + i, load_tail_f16(halves + 2 * i, 0, rest), rest);
    }
}

static void row_q8_0_to_f32(float *dst, const void *src, int64_t n) {
    const ce_block_q8_0 *block = src;
    for (int64_t i = 0; i < n; i += CE_QK, block++) {
        const lanes d = widen_f16(vdup_n_u16(block->d));
        for (int j = 0; j < CE_QK; j += 8) {
            const int16x8_t q = vmovl_s8(vld1_s8(block->qs + j));
            store(dst + i + j, multiply(vcvtq_f32_s32(vmovl_s16(vget_low_s16(q))), d));
            store(dst + i + j + LANES, multiply(vcvtq_f32_s32(vmovl_s16(vget_high_s16(q))), d));
        }
    }
}

void ce_neon_ops(ce_kernels *k) {
    k->quantize_act = quantize_act;
    k->f32_to_f16 = row_f32_to_f16;
    k->dequantize[CE_TYPE_F16] = row_f16_to_f32;
    k->dequantize[CE_TYPE_Q8_0] = row_q8_0_to_f32;
    k->rmsnorm = rmsnorm;
    k->silu_mul = silu_mul;
}
