/* The families of AVX-VNNI kernels; each overlays its part of the struct. */
#ifndef CE_AVXVNNI_H
#define CE_AVXVNNI_H

#include "kernels.h"

void ce_avxvnni_matmul(ce_kernels *k);
void ce_avxvnni_limits(ce_kernels *k);

#endif
