/* The limits of AVX-512 VNNI: 64-byte loads, and vpdpbusd on 64 bytes. */
#include "avx512vnni.h"

#include <immintrin.h>

enum { WIDTH = 64, N_VECTORS = CE_READ_BYTES / WIDTH, N_PRODUCTS = 64, N_CHAINS = 12 };

static void read(const void *data, size_t n_bytes) {
    const __m512i *at = data;
    for (size_t i = 0; i < n_bytes / WIDTH; i += N_VECTORS) {
        for (int k = 0; k < N_VECTORS; k++) {
            const __m512i v = _mm512_loadu_si512(at + i + k);
            __asm__ volatile("" : : "v"(v));
        }
    }
}

static void multiply(int64_t n_rounds) {
    const __m512i one = _mm512_set1_epi8(1);
    __m512i sum[N_CHAINS];
    for (int i = 0; i < N_CHAINS; i++) {
        sum[i] = _mm512_setzero_si512();
    }
    for (int64_t n = 0; n < n_rounds; n++) {
        for (int i = 0; i < N_CHAINS; i++) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], one, one);
            __asm__ volatile("" : "+v"(sum[i]));
        }
    }
}

void ce_avx512vnni_limits(ce_kernels *k) {
    k->read = read;
    k->peak = (ce_peak){"vpdpbusd", N_CHAINS * N_PRODUCTS, multiply};
}
