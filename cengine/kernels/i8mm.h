/* The families of i8mm kernels; each overlays its part of the struct. */
#ifndef CE_I8MM_H
#define CE_I8MM_H

#include "kernels.h"

void ce_i8mm_matmul(ce_kernels *k);
void ce_i8mm_limits(ce_kernels *k);

#endif
