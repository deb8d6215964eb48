/* The families of AVX2 kernels; each overlays its part of the struct. */
#ifndef CE_AVX2_H
#define CE_AVX2_H

#include "kernels.h"

void ce_avx2_matmul(ce_kernels *k);
void ce_avx2_matmul_floats(ce_kernels *k);
void ce_avx2_attention(ce_kernels *k);
void ce_avx2_ops(ce_kernels *k);
void ce_avx2_quantize(ce_kernels *k);
void ce_avx2_limits(ce_kernels *k);

#endif
