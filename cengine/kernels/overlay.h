/* How a tier puts its matmuls into the struct. */
#ifndef CE_OVERLAY_H
#define CE_OVERLAY_H

#include "kernels.h"

/* Into a table of the struct, such as k->matmul. */
static inline void overlay_phases(ce_matmul_kernel table[CE_N_PHASES][CE_MAX_TYPE], ce_type type,
                                  ce_matmul_kernel prompt, ce_matmul_kernel generated) {
    table[CE_PHASE_PROMPT][type] = prompt;
    table[CE_PHASE_GENERATED][type] = generated;
}

/* The function matmul_<name>, which serves both phases, under the names of both. */
#define OVERLAY_MATMUL(k, tier, type, name, packing)                                               \
    overlay_phases((k)->matmul, type,                                                              \
                   (ce_matmul_kernel){#name "/" tier "/prompt", matmul_##name, packing},           \
                   (ce_matmul_kernel){#name "/" tier "/generated", matmul_##name, packing})

#endif
