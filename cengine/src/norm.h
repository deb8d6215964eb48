/* RMSNorm of the residual stream (arXiv:1910.07467). */
#ifndef CE_NORM_H
#define CE_NORM_H

#include "engine.h"

/* For each row: x += add (where not NULL, [n_rows][dim]), norm = rmsnorm(x) * weight, quantized.
 * False when cancelled. */
bool ce_norm_rows(const ce_pass *pass, const float *add, const float *weight);

#endif
