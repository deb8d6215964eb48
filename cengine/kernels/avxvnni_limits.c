/* The limit of AVX-VNNI: vpdpbusd on 32 bytes. */
#include "avxvnni.h"

#include <immintrin.h>

enum { N_PRODUCTS = 32, N_CHAINS = 10 };

static void multiply(int64_t n_rounds) {
    const __m256i one = _mm256_set1_epi8(1);
    __m256i sum[N_CHAINS];
    for (int i = 0; i < N_CHAINS; i++) {
        sum[i] = _mm256_setzero_si256();
    }
    for (int64_t n = 0; n < n_rounds; n++) {
        for (int i = 0; i < N_CHAINS; i++) {
            sum[i] = _mm256_dpbusd_avx_epi32(sum[i], one, one);
            __asm__ volatile("" : "+x"(sum[i]));
        }
    }
}

void ce_avxvnni_limits(ce_kernels *k) {
    k->peak = (ce_peak){"vpdpbusd", N_CHAINS * N_PRODUCTS, multiply};
}
