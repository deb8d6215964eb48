/* The AMX tier (tiles of bf16): matmuls and attention of prompts; the rest is the AVX-512 VNNI
 * tier's. */
#include "amx.h"

void ce_kernels_amx(ce_kernels *k) {
    k->tier = "amx";
    ce_amx_attention(k);
    ce_amx_matmul(k);
    ce_amx_limits(k);
}
