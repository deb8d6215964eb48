/* Dequantization of a row, bit-equal to the formulas of ggml. */
#include "generic.h"
#include "generic_blocks.h"
#include "generic_blocks_iq.h"
#include "inline.h"

static void dequantize_f32(float *dst, const void *src, int64_t n) {
    memcpy(dst, src, (size_t)n * sizeof *dst);
}

static void dequantize_f16(float *dst, const void *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        dst[i] = load_f16(src, i);
    }
}

static void dequantize_bf16(float *dst, const void *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        dst[i] = load_bf16(src, i);
    }
}

INLINE void dequantize_blocks(float *dst, const void *src, int64_t n, unpack_fn *unpack) {
    for (int64_t b = 0; b < n / CE_QK; b++) {
        columns32 w;
        unpack(&w, src, b);
        for (int i = 0; i < CE_QK; i++) {
            const float scale = w.scale * (float)w.mult[i / 16];
            const float min = w.min * (float)w.min_mult[i / 16];
            dst[CE_QK * b + i] = scale * (float)w.q[i] - min;
        }
    }
}

#define DEFINE_DEQUANTIZE(type)                                                                    \
    static void dequantize_##type(float *dst, const void *src, int64_t n) {                        \
        dequantize_blocks(dst, src, n, unpack_##type);                                             \
    }

DEFINE_DEQUANTIZE(q4_0)
DEFINE_DEQUANTIZE(q4_1)
DEFINE_DEQUANTIZE(q5_0)
DEFINE_DEQUANTIZE(q5_1)
DEFINE_DEQUANTIZE(q8_0)
DEFINE_DEQUANTIZE(q2_K)
DEFINE_DEQUANTIZE(q3_K)
DEFINE_DEQUANTIZE(q4_K)
DEFINE_DEQUANTIZE(q5_K)
DEFINE_DEQUANTIZE(q6_K)
DEFINE_DEQUANTIZE(iq4_nl)
DEFINE_DEQUANTIZE(iq4_xs)
DEFINE_DEQUANTIZE(iq3_xxs)
DEFINE_DEQUANTIZE(iq3_s)
DEFINE_DEQUANTIZE(iq2_xxs)
DEFINE_DEQUANTIZE(iq2_xs)
DEFINE_DEQUANTIZE(iq2_s)
DEFINE_DEQUANTIZE(iq1_s)
DEFINE_DEQUANTIZE(iq1_m)

void ce_generic_dequantize(ce_kernels *k) {
    k->dequantize[CE_TYPE_F32] = dequantize_f32;
    k->dequantize[CE_TYPE_F16] = dequantize_f16;
    k->dequantize[CE_TYPE_BF16] = dequantize_bf16;
    k->dequantize[CE_TYPE_Q4_0] = dequantize_q4_0;
    k->dequantize[CE_TYPE_Q4_1] = dequantize_q4_1;
    k->dequantize[CE_TYPE_Q5_0] = dequantize_q5_0;
    k->dequantize[CE_TYPE_Q5_1] = dequantize_q5_1;
    k->dequantize[CE_TYPE_Q8_0] = dequantize_q8_0;
    k->dequantize[CE_TYPE_Q2_K] = dequantize_q2_K;
    k->dequantize[CE_TYPE_Q3_K] = dequantize_q3_K;
    k->dequantize[CE_TYPE_Q4_K] = dequantize_q4_K;
    k->dequantize[CE_TYPE_Q5_K] = dequantize_q5_K;
    k->dequantize[CE_TYPE_Q6_K] = dequantize_q6_K;
    k->dequantize[CE_TYPE_IQ4_NL] = dequantize_iq4_nl;
    k->dequantize[CE_TYPE_IQ4_XS] = dequantize_iq4_xs;
    k->dequantize[CE_TYPE_IQ3_XXS] = dequantize_iq3_xxs;
    k->dequantize[CE_TYPE_IQ3_S] = dequantize_iq3_s;
    k->dequantize[CE_TYPE_IQ2_XXS] = dequantize_iq2_xxs;
    k->dequantize[CE_TYPE_IQ2_XS] = dequantize_iq2_xs;
    k->dequantize[CE_TYPE_IQ2_S] = dequantize_iq2_s;
    k->dequantize[CE_TYPE_IQ1_S] = dequantize_iq1_s;
    k->dequantize[CE_TYPE_IQ1_M] = dequantize_iq1_m;
}
