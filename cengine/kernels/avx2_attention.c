/* Attention in AVX2. */
#include "avx2.h"
#include "avx2_load.h"
#include "lanes_attention.h"

void ce_avx2_attention(ce_kernels *k) { overlay_attention(k); }
