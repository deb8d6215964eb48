/* AVX-VNNI matmuls of the block types. */
#include "avxvnni.h"

#include "avx2_points.h"
#include "avxvnni_products.h"
#include "points_in_rows.h"

#define TIER "avxvnni"
#include "repacked_matmul.h"
#include "rows_matmul.h"

void ce_avxvnni_matmul(ce_kernels *k) {
    overlay_block_types(k);
    overlay_repacked_types(k);
}
