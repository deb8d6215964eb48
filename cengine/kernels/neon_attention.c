/* Attention in NEON. */
#include "neon.h"
#include "neon_load.h"

#include "lanes_attention.h"

void ce_neon_attention(ce_kernels *k) { overlay_attention(k); }
