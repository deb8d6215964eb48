/* The limits of NEON: 16-byte loads, and sdot. */
#include "neon.h"

#include <arm_neon.h>

enum { WIDTH = 16, N_VECTORS = CE_READ_BYTES / WIDTH, N_PRODUCTS = 16, N_CHAINS = 16 };

static void read(const void *data, size_t n_bytes) {
    const uint8_t *at = data;
    for (size_t i = 0; i < n_bytes; i += CE_READ_BYTES) {
        for (int k = 0; k < N_VECTORS; k++) {
            const uint8x16_t v = vld1q_u8(at + i + k * WIDTH);
            __asm__ volatile("" : : "w"(v));
        }
    }
}

static void multiply(int64_t n_rounds) {
    const int8x16_t one = vdupq_n_s8(1);
    int32x4_t sum[N_CHAINS];
    for (int i = 0; i < N_CHAINS; i++) {
        sum[i] = vdupq_n_s32(0);
    }
    for (int64_t n = 0; n < n_rounds; n++) {
        for (int i = 0; i < N_CHAINS; i++) {
            sum[i] = vdotq_s32(sum[i], one, one);
            __asm__ volatile("" : "+w"(sum[i]));
        }
    }
}

void ce_neon_limits(ce_kernels *k) {
    k->read = read;
    k->peak = (ce_peak){"sdot", N_CHAINS * N_PRODUCTS, multiply};
}
