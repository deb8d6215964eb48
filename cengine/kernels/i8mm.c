/* The tier of Arm's matrix multiply instructions for int8: matmuls of the block types; the rest is
 * the NEON tier's. */
#include "i8mm.h"

void ce_kernels_i8mm(ce_kernels *k) {
    k->tier = "i8mm";
    ce_i8mm_matmul(k);
    ce_i8mm_limits(k);
}
