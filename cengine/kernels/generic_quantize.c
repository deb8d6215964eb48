/* Quantizers in plain C: vectors of whatever width the compiler's target has. */
#include "generic.h"
#include "quantize/legacy.h"
#include "quantize/quantizers.h"

#define DEFINE_LEGACY(type)                                                                        \
    static void quantize_##type(void *dst, const float *x, const float *importance,                \
                                int64_t n_rows, int64_t n_cols) {                                  \
        (void)importance; /* one formula: nothing to weigh */                                      \
        for (int64_t b = 0; b < n_rows * (n_cols / CE_QK); b++) {                                  \
            encode_##type((ce_block_##type *)dst + b, x + CE_QK * b);                              \
        }                                                                                          \
    }

DEFINE_LEGACY(q4_0)
DEFINE_LEGACY(q4_1)
DEFINE_LEGACY(q5_0)
DEFINE_LEGACY(q5_1)
DEFINE_LEGACY(q8_0)

void ce_generic_quantize(ce_kernels *k) {
    k->quantize[CE_TYPE_Q4_0] = quantize_q4_0;
    k->quantize[CE_TYPE_Q4_1] = quantize_q4_1;
    k->quantize[CE_TYPE_Q5_0] = quantize_q5_0;
    k->quantize[CE_TYPE_Q5_1] = quantize_q5_1;
    k->quantize[CE_TYPE_Q8_0] = quantize_q8_0;
    overlay_quantizers(k);
}
