/* The limits of i8mm: 16-byte loads, and smmla. */
#include "i8mm.h"

#include <arm_neon.h>

#include "inline.h"

enum { WIDTH = 16, N_PRODUCTS = 32, N_CHAINS = 16 };
#define REGISTER "w"

typedef int32x4_t vector;

INLINE vector load_vector(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }

INLINE vector multiply_vector(vector sum) { return vmmlaq_s32(sum, vdupq_n_s8(1), vdupq_n_s8(1)); }

#include "vector_limits.h"

void ce_i8mm_limits(ce_kernels *k) { set_limits(k, "smmla"); }
