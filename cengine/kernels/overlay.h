/* How a tier puts its matmuls into the struct. */
#ifndef CE_OVERLAY_H
#define CE_OVERLAY_H

#include "kernels.h"

static inline void overlay_matmul(ce_kernels *k, ce_type type, ce_matmul_kernel prompt,
                                  ce_matmul_kernel generated) {
    k->matmul[CE_PHASE_PROMPT][type] = prompt;
    k->matmul[CE_PHASE_GENERATED][type] = generated;
}

static inline void overlay_repacked(ce_kernels *k, ce_type type, ce_matmul_kernel prompt,
                                    ce_matmul_kernel generated) {
    k->repacked[CE_PHASE_PROMPT][type] = prompt;
    k->repacked[CE_PHASE_GENERATED][type] = generated;
}

/* The function matmul_<name>, which serves both phases, under the names of both. */
#define OVERLAY_MATMUL(k, tier, type, name, packing)                                               \
    overlay_matmul(k, type, (ce_matmul_kernel){#name "/" tier "/prompt", matmul_##name, packing},  \
                   (ce_matmul_kernel){#name "/" tier "/generated", matmul_##name, packing})

#endif
