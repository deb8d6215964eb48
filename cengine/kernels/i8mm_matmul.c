/* Matmuls of the block types with Arm's matrix multiply instructions. */
#include "i8mm.h"
#include "i8mm_panels.h"
#include "neon_points.h"
#include "points_in_rows.h"

#define TIER "i8mm"
#include "repacked_matmul.h"
#include "rows_matmul.h"

void ce_i8mm_matmul(ce_kernels *k) {
    overlay_block_types(k);
    overlay_repacked_types(k);
}
