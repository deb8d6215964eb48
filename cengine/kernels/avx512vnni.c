/* The AVX-512 tier (F, BW, DQ, VL and VNNI): matmuls, attention and what it
 * widens; the rest is the AVX2 tier's. */
#include "avx512vnni.h"

void ce_kernels_avx512vnni(ce_kernels *k) {
    k->tier = "avx512vnni";
    ce_avx512vnni_matmul(k);
    ce_avx512vnni_matmul_floats(k);
    ce_avx512vnni_attention(k);
    ce_avx512vnni_ops(k);
    ce_avx512vnni_quantize(k);
    ce_avx512vnni_limits(k);
}
