/* AVX2 matmuls of the block types. */
#include "avx2.h"
#include "avx2_points.h"
#include "avx2_products.h"
#include "points_in_rows.h"

#define TIER "avx2"
#include "repacked_matmul.h"
#include "rows_matmul.h"

void ce_avx2_matmul(ce_kernels *k) {
    overlay_block_types(k);
    overlay_repacked_types(k);
}
