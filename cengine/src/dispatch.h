/* Instruction-set tiers: which there are, which this CPU can run, and their kernels. */
#ifndef CE_DISPATCH_H
#define CE_DISPATCH_H

#include "cengine.h"
#include "kernels.h"

/* Fills *out with the kernels of the named tier. Without a name: of $PYMIXTRAL_TIER or, where that
 * is unset or empty, of the best tier that the CPU has. CE_ERR_TIER if the tier is unknown or the
 * CPU lacks it. */
ce_status ce_select_kernels(const char *name_or_null, ce_kernels *out, ce_error *err);

#endif
