/* AVX-512 matmuls of the float types. */
#include "avx512vnni.h"
#include "avx512vnni_load.h"

enum { TILE = 4 /* tokens: sixteen sums and their operands fit 32 registers */ };

#define TIER "avx512vnni"
#include "lanes_matmul_floats.h"

void ce_avx512vnni_matmul_floats(ce_kernels *k) { overlay_float_types(k); }
