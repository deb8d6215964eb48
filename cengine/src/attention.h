/* Grouped-query attention with a KV cache. */
#ifndef CE_ATTENTION_H
#define CE_ATTENTION_H

#include "engine.h"

/* From scratch.q, .k, .v: rotates q and k, appends k and v to the sessions, and leaves the
 * heads' outputs in scratch.heads. False when cancelled. */
bool ce_attention(const ce_pass *pass, int layer);

#endif
