/* The families of AVX-512 kernels; each overlays its part of the struct. */
#ifndef CE_AVX512VNNI_H
#define CE_AVX512VNNI_H

#include "kernels.h"

void ce_avx512vnni_matmul(ce_kernels *k);
void ce_avx512vnni_matmul_floats(ce_kernels *k);
void ce_avx512vnni_attention(ce_kernels *k);
void ce_avx512vnni_ops(ce_kernels *k);
void ce_avx512vnni_quantize(ce_kernels *k);
void ce_avx512vnni_limits(ce_kernels *k);

#endif
