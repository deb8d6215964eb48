/* The families of AMX kernels; each overlays its part of the struct. */
#ifndef CE_AMX_H
#define CE_AMX_H

#include "kernels.h"

void ce_amx_attention(ce_kernels *k);
void ce_amx_matmul_bf16(ce_kernels *k);
void ce_amx_matmul_int8(ce_kernels *k);
void ce_amx_limits(ce_kernels *k);

#endif
