/* The AVX-VNNI tier: matmuls of the block types; the rest is the AVX2 tier's. */
#include "avxvnni.h"

void ce_kernels_avxvnni(ce_kernels *k) {
    k->tier = "avxvnni";
    ce_avxvnni_matmul(k);
    ce_avxvnni_limits(k);
}
