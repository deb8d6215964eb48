/* The AVX2 tier (with FMA and F16C). */
#include "avx2.h"

void ce_kernels_avx2(ce_kernels *k) {
    k->tier = "avx2";
    ce_avx2_matmul(k);
    ce_avx2_matmul_floats(k);
    ce_avx2_attention(k);
    ce_avx2_ops(k);
    ce_avx2_quantize(k);
    ce_avx2_limits(k);
}
