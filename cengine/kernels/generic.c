/* The generic tier: plain C, dull on purpose. It is the specification of every other tier. */
#include "generic.h"

#include <string.h>

void ce_kernels_generic(ce_kernels *k) {
    memset(k, 0, sizeof *k);
    k->tier = "generic";
    ce_generic_dequantize(k);
    ce_generic_matmul(k);
    ce_generic_attention(k);
    ce_generic_ops(k);
    ce_generic_quantize(k);
    ce_generic_limits(k);
}
