/* The families of NEON kernels; each overlays its part of the struct. */
#ifndef CE_NEON_H
#define CE_NEON_H

#include "kernels.h"

void ce_neon_matmul(ce_kernels *k);
void ce_neon_matmul_floats(ce_kernels *k);
void ce_neon_attention(ce_kernels *k);
void ce_neon_ops(ce_kernels *k);
void ce_neon_limits(ce_kernels *k);

#endif
