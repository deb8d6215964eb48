/* The small operations: activations to int8, KV precision, RMSNorm, SiLU. */
#include "blocks.h"
#include "generic.h"
#include "generic_half.h"

#include <float.h>
#include <math.h>

/* With amax = max|x|: scale = amax / 127 and q = rint(x * (127 / amax)), each operation rounded to
 * float. Where 127 / amax overflows (amax < 3.8e-37, zero included) the block counts as zeros. */
static void quantize_block(int8_t *q, float *scale, ce_act_sums *sums, const float *x) {
    uint32_t amax_bits = 0; /* compared as integers, a NaN is above infinity, and that above all */
    for (int i = 0; i < CE_ACT_BLOCK; i++) {
        const uint32_t bits = bits_from_float(x[i]) & 0x7fffffff;
        amax_bits = bits > amax_bits ? bits : amax_bits;
    }
    const float amax = float_from_bits(amax_bits);
    const float inverse = 127.0f / amax;
    memset(q, 0, CE_ACT_BLOCK);
    int32_t half[2] = {0}; /* the sums */
    if (amax_bits >= 0x7f800000) {
        *scale = float_from_bits(0x7fc00000);
    } else if (inverse > FLT_MAX) {
        *scale = 0.0f;
    } else {
        *scale = amax / 127.0f;
        for (int i = 0; i < CE_ACT_BLOCK; i++) {
            q[i] = (int8_t)lrintf(x[i] * inverse);
            half[i / 16] += q[i];
        }
    }
    *sums = ce_act_sums_of(half[0], half[1], *scale);
}

static void quantize_act(int8_t *q, float *scale, ce_act_sums *sums, const float *x, int n) {
    for (int b = 0; b < n / CE_ACT_BLOCK; b++) {
        quantize_block(q + CE_ACT_BLOCK * b, scale + b, sums + b, x + CE_ACT_BLOCK * b);
    }
}

static void row_f32_to_f16(uint16_t *dst, const float *src, int n) {
    for (int i = 0; i < n; i++) {
        dst[i] = f32_to_f16(src[i]);
    }
}

static void rmsnorm(float *y, const float *x, const float *w, int n, float eps) {
    float sum[8] = {0}; /* as in the float matmuls: eight lanes, then a tree */
    for (int i = 0; i < n; i++) {
        sum[i % 8] += x[i] * x[i];
    }
    const float total =
        ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
    const float scale = 1.0f / sqrtf(total / (float)n + eps);
    for (int i = 0; i < n; i++) {
        y[i] = (x[i] * scale) * w[i];
    }
}

static void silu_mul(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i++) {
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

void ce_generic_ops(ce_kernels *k) {
    k->quantize_act = quantize_act;
    k->f32_to_f16 = row_f32_to_f16;
    k->rmsnorm = rmsnorm;
    k->silu_mul = silu_mul;
}
