/* The limits of a tier with vectors of WIDTH bytes, `vector`. Included after load_vector(p) and
 * multiply_vector(sum), N_PRODUCTS products that are added to sum or replace it; N_CHAINS sums hide
 * their latency. REGISTER is the asm constraint of a vector. */
#ifndef CE_VECTOR_LIMITS_H
#define CE_VECTOR_LIMITS_H

#include "inline.h"
#include "kernels.h"

/* The compiler must have the value, and cannot know that nobody uses it. */
#define KEEP(v) __asm__ volatile("" : "+" REGISTER(v))

static void read(const void *data, size_t n_bytes) {
    const char *at = data;
    for (size_t i = 0; i < n_bytes; i += CE_READ_BYTES) {
        for (int k = 0; k < CE_READ_BYTES; k += WIDTH) {
            vector v = load_vector(at + i + k);
            KEEP(v);
        }
    }
}

static void multiply(int64_t n_rounds) {
    vector sum[N_CHAINS] = {{0}};
    for (int64_t n = 0; n < n_rounds; n++) {
        for (int i = 0; i < N_CHAINS; i++) {
            sum[i] = multiply_vector(sum[i]);
            KEEP(sum[i]);
        }
    }
}

INLINE void set_limits(ce_kernels *k, const char *instruction) {
    k->read = read;
    k->peak = (ce_peak){instruction, (int64_t)N_CHAINS * N_PRODUCTS, multiply};
}

#endif
