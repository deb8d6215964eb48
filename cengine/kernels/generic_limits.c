/* The limits of plain C: 64-bit loads, and integer multiply-adds that the compiler may vectorize.
 */
#include "generic.h"

enum { N_LANES = 64 };

static void read(const void *data, size_t n_bytes) {
    const volatile uint64_t *at = data;
    for (size_t i = 0; i < n_bytes / sizeof *at; i++) {
        (void)at[i];
    }
}

static void multiply(int64_t n_rounds) {
    uint32_t sum[N_LANES] = {0};
    const uint32_t *sums = sum;
    for (int64_t n = 0; n < n_rounds; n++) {
        for (int i = 0; i < N_LANES; i++) {
            sum[i] += sum[i] * 3;
        }
        __asm__ volatile("" : : "r"(sums) : "memory");
    }
}

void ce_generic_limits(ce_kernels *k) {
    k->read = read;
    k->peak = (ce_peak){"C", N_LANES, multiply};
}
