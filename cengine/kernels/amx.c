/* The AMX tier: matmuls and attention of prompts; the rest is the AVX-512 VNNI tier's. */
#include "amx.h"

void ce_kernels_amx(ce_kernels *k) {
    k->tier = "amx";
    ce_amx_attention(k);
    ce_amx_matmul_bf16(k);
    ce_amx_matmul_int8(k);
    ce_amx_limits(k);
}
