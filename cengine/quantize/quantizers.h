/* The searching quantizers of one tier: included by the file that is compiled for it. */
#ifndef CE_QUANTIZE_QUANTIZERS_H
#define CE_QUANTIZE_QUANTIZERS_H

#include "iq4.h"
#include "k_quants.h"
#include "kernels.h"

/* `search` is affine or scaled: the family of formats that `type` is of. */
#define DEFINE_QUANTIZE(search, type)                                                              \
    static void quantize_##type(void *dst, const float *x, const float *importance,                \
                                int64_t n_rows, int64_t n_cols) {                                  \
        const search##_format *f = &format_##type;                                                 \
        const int64_t n_blocks = n_rows * (n_cols / (f->n_columns * f->n_sub));                    \
        const int64_t blocks_per_unit = N_SUB / f->n_sub;                                          \
        for (int64_t first = 0; first < n_blocks; first += blocks_per_unit) {                      \
            unit u;                                                                                \
            search##_codes codes;                                                                  \
            load_unit(&u, f->n_columns, f->n_sub, x, importance, n_cols, first, n_blocks, f->by);  \
            quantize_##search(&u, f, &codes);                                                      \
            for (int64_t b = 0; b < blocks_per_unit && first + b < n_blocks; b++) {                \
                pack_##type((ce_block_##type *)dst + first + b, &codes, (int)b * f->n_sub);        \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_QUANTIZE(affine, q2_K)
DEFINE_QUANTIZE(scaled, q3_K)
DEFINE_QUANTIZE(affine, q4_K)
DEFINE_QUANTIZE(affine, q5_K)
DEFINE_QUANTIZE(scaled, q6_K)
DEFINE_QUANTIZE(scaled, iq4_nl)
DEFINE_QUANTIZE(scaled, iq4_xs)

static void overlay_quantizers(ce_kernels *k) {
    k->quantize[CE_TYPE_Q2_K] = quantize_q2_K;
    k->quantize[CE_TYPE_Q3_K] = quantize_q3_K;
    k->quantize[CE_TYPE_Q4_K] = quantize_q4_K;
    k->quantize[CE_TYPE_Q5_K] = quantize_q5_K;
    k->quantize[CE_TYPE_Q6_K] = quantize_q6_K;
    k->quantize[CE_TYPE_IQ4_NL] = quantize_iq4_nl;
    k->quantize[CE_TYPE_IQ4_XS] = quantize_iq4_xs;
}

#endif
