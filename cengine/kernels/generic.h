/* The families of generic kernels; each fills its part of the struct. */
#ifndef CE_GENERIC_H
#define CE_GENERIC_H

#include "kernels.h"

void ce_generic_dequantize(ce_kernels *k);
void ce_generic_matmul(ce_kernels *k);
void ce_generic_attention(ce_kernels *k);
void ce_generic_ops(ce_kernels *k);
void ce_generic_quantize(ce_kernels *k);
void ce_generic_limits(ce_kernels *k);

#endif
