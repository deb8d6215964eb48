/* The limits of AVX-VNNI: 32-byte loads, and vpdpbusd. */
#include "avxvnni.h"

#include <immintrin.h>

#include "inline.h"

enum { WIDTH = 32, N_PRODUCTS = 32, N_CHAINS = 10 };
#define REGISTER "x"

typedef __m256i vector;

INLINE vector load_vector(const void *p) { return _mm256_loadu_si256(p); }

INLINE vector multiply_vector(vector sum) {
    return _mm256_dpbusd_avx_epi32(sum, _mm256_set1_epi8(1), _mm256_set1_epi8(1));
}

#include "vector_limits.h"

void ce_avxvnni_limits(ce_kernels *k) { set_limits(k, "vpdpbusd"); }
