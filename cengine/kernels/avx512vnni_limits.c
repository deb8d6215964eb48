/* The limits of AVX-512 VNNI: 64-byte loads, and vpdpbusd. */
#include "avx512vnni.h"

#include <immintrin.h>

#include "inline.h"

enum { WIDTH = 64, N_PRODUCTS = 64, N_CHAINS = 12 };
#define REGISTER "v"

typedef __m512i vector;

INLINE vector load_vector(const void *p) { return _mm512_loadu_si512(p); }

INLINE vector multiply_vector(vector sum) {
    return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_set1_epi8(1));
}

#include "vector_limits.h"

void ce_avx512vnni_limits(ce_kernels *k) { set_limits(k, "vpdpbusd"); }
