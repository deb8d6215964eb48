/* The AVX-VNNI tier: matmuls of the block types; the rest is the AVX2 tier's. */
#include "avx2_points.h"
#include "avxvnni_products.h"

#define TIER "avxvnni"
#include "rows_matmul.h"

void ce_kernels_avxvnni(ce_kernels *k) {
    k->tier = "avxvnni";
    overlay_block_types(k);
}
