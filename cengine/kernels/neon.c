/* The NEON tier (with the dot product instructions); the quantizers are the generic ones, which
 * the compiler makes NEON of. */
#include "neon.h"

void ce_kernels_neon(ce_kernels *k) {
    k->tier = "neon";
    ce_neon_matmul(k);
    ce_neon_matmul_floats(k);
    ce_neon_attention(k);
    ce_neon_ops(k);
    ce_neon_limits(k);
}
