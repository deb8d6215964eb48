/* Attention in AVX-512. */
#include "avx512vnni.h"
#include "avx512vnni_load.h"
#include "lanes_attention.h"

void ce_avx512vnni_attention(ce_kernels *k) { overlay_attention(k); }
