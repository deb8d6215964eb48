/* The quantizers of one tier: included by the file that is compiled for it. */
#ifndef CE_QUANTIZE_QUANTIZERS_H
#define CE_QUANTIZE_QUANTIZERS_H

#include "iq4.h"
#include "k_quants.h"
#include "kernels.h"
#include "legacy.h"
#include "legacy_search.h"

/* `search` is affine or scaled: the family of formats that `type` is of. */
#define DEFINE_SEARCH(search, type)                                                                \
    static void search_##type(void *dst, const float *x, const float *importance, int64_t n_rows,  \
                              int64_t n_cols) {                                                    \
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

#define DEFINE_FORMULA(type)                                                                       \
    static void formula_##type(void *dst, const float *x, const float *importance, int64_t n_rows, \
                               int64_t n_cols) {                                                   \
        (void)importance;                                                                          \
        for (int64_t b = 0; b < n_rows * (n_cols / CE_QK); b++) {                                  \
            encode_##type((ce_block_##type *)dst + b, x + CE_QK * b);                              \
        }                                                                                          \
    }

/* The formula, unless an importance asks for more. */
#define DEFINE_LEGACY(search, type)                                                                \
    DEFINE_FORMULA(type)                                                                           \
    DEFINE_SEARCH(search, type)                                                                    \
    static void quantize_##type(void *dst, const float *x, const float *importance,                \
                                int64_t n_rows, int64_t n_cols) {                                  \
        (importance == NULL ? formula_##type : search_##type)(dst, x, importance, n_rows, n_cols); \
    }

DEFINE_SEARCH(affine, q2_K)
DEFINE_SEARCH(scaled, q3_K)
DEFINE_SEARCH(affine, q4_K)
DEFINE_SEARCH(affine, q5_K)
DEFINE_SEARCH(scaled, q6_K)
DEFINE_SEARCH(scaled, iq4_nl)
DEFINE_SEARCH(scaled, iq4_xs)
DEFINE_LEGACY(scaled, q4_0)
DEFINE_LEGACY(affine, q4_1)
DEFINE_LEGACY(scaled, q5_0)
DEFINE_LEGACY(affine, q5_1)
DEFINE_FORMULA(q8_0)

static void overlay_quantizers(ce_kernels *k) {
    k->quantize[CE_TYPE_Q4_0] = quantize_q4_0;
    k->quantize[CE_TYPE_Q4_1] = quantize_q4_1;
    k->quantize[CE_TYPE_Q5_0] = quantize_q5_0;
    k->quantize[CE_TYPE_Q5_1] = quantize_q5_1;
    k->quantize[CE_TYPE_Q8_0] = formula_q8_0;
    k->quantize[CE_TYPE_Q2_K] = search_q2_K;
    k->quantize[CE_TYPE_Q3_K] = search_q3_K;
    k->quantize[CE_TYPE_Q4_K] = search_q4_K;
    k->quantize[CE_TYPE_Q5_K] = search_q5_K;
    k->quantize[CE_TYPE_Q6_K] = search_q6_K;
    k->quantize[CE_TYPE_IQ4_NL] = search_iq4_nl;
    k->quantize[CE_TYPE_IQ4_XS] = search_iq4_xs;
}

#endif
