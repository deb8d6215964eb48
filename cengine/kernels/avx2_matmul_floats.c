/* AVX2 matmuls of the float types. */
#include "avx2.h"
#include "avx2_load.h"

enum { TILE = 3 /* tokens: twelve sums and their operands fit sixteen registers */ };

#define TIER "avx2"
#include "lanes_matmul_floats.h"

void ce_avx2_matmul_floats(ce_kernels *k) { overlay_float_types(k); }
