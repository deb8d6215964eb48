/* AVX-512 VNNI matmuls of the block types. */
#include "avx512vnni.h"
#include "avx512vnni_points.h"

#define TIER "avx512vnni"
#include "repacked_matmul.h"
#include "rows_matmul.h"

void ce_avx512vnni_matmul(ce_kernels *k) {
    overlay_block_types(k);
    overlay_repacked_types(k);
}
