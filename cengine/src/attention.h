/* Grouped-query attention with a KV cache. */
#ifndef CE_ATTENTION_H
#define CE_ATTENTION_H

#include "engine.h"

/* Rotates scratch.q and .k, and appends k and v to the sessions' caches. False when cancelled. */
bool ce_store_kv(const ce_pass *pass, int layer);

/* scratch.q over the caches: leaves the heads' outputs in scratch.heads. A session's rows are at
 * consecutive positions. False when cancelled. */
bool ce_attend(const ce_pass *pass, int layer);

#endif
