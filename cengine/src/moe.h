/* The feed-forward block: a router and experts (arXiv:2401.04088), or one dense "expert". */
#ifndef CE_MOE_H
#define CE_MOE_H

#include "engine.h"

/* From scratch.norm to scratch.x, residual included. A row whose router logits are not finite
 * goes to no expert, and its item's status becomes CE_ERR_NUMERIC. False when cancelled. */
bool ce_feed_forward(ce_pass *pass, int layer);

#endif
