/* NEON matmuls of the block types. */
#include "neon.h"
#include "neon_points.h"
#include "neon_rows.h"
#include "plain_panels.h"
#include "points_in_rows.h"

#define TIER "neon"
#include "repacked_matmul.h"
#include "rows_matmul.h"

void ce_neon_matmul(ce_kernels *k) {
    overlay_block_types(k);
    overlay_repacked_types(k);
}
