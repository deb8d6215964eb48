/* The limits of AVX2: 32-byte loads, and vpmaddubsw. */
#include "avx2.h"

#include <immintrin.h>

enum { WIDTH = 32, N_VECTORS = CE_READ_BYTES / WIDTH, N_PRODUCTS = 32, N_CHAINS = 8 };

static void read(const void *data, size_t n_bytes) {
    const __m256i *at = data;
    for (size_t i = 0; i < n_bytes / WIDTH; i += N_VECTORS) {
        for (int k = 0; k < N_VECTORS; k++) {
            const __m256i v = _mm256_loadu_si256(at + i + k);
            __asm__ volatile("" : : "x"(v));
        }
    }
}

static void multiply(int64_t n_rounds) {
    const __m256i w = _mm256_set1_epi8(1);
    __m256i x[N_CHAINS];
    for (int i = 0; i < N_CHAINS; i++) {
        x[i] = _mm256_set1_epi8((char)i);
    }
    for (int64_t n = 0; n < n_rounds; n++) {
        for (int i = 0; i < N_CHAINS; i++) {
            x[i] = _mm256_maddubs_epi16(w, x[i]);
            __asm__ volatile("" : "+x"(x[i]));
        }
    }
}

void ce_avx2_limits(ce_kernels *k) {
    k->read = read;
    k->peak = (ce_peak){"vpmaddubsw", N_CHAINS * N_PRODUCTS, multiply};
}
