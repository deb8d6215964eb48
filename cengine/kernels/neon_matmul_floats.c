/* NEON matmuls of the float types. */
#include "neon.h"
#include "neon_load.h"

enum { TILE = 4 /* tokens: sixteen sums and their operands fit 32 registers */ };

#define TIER "neon"
#include "lanes_matmul_floats.h"

void ce_neon_matmul_floats(ce_kernels *k) { overlay_float_types(k); }
