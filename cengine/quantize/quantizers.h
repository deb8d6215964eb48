/* The quantizers of one tier: included by the file that is compiled for it. */
#ifndef CE_QUANTIZE_QUANTIZERS_H
#define CE_QUANTIZE_QUANTIZERS_H

#include "iq4.h"
#include "k_quants.h"
#include "kernels.h"
#include "legacy.h"
#include "legacy_search.h"

INLINE void quantize_blocks_affine(void *dst, size_t block_bytes, const float *x,
                                   const float *importance, int64_t n_blocks, int64_t row_columns,
                                   const affine_format *f, pack_affine_fn *pack) {
    for (int64_t first = 0; first < n_blocks; first += N_SUB / f->n_sub) {
        unit u;
        affine_codes codes;
        load_unit(&u, f->n_columns, f->n_sub, x, importance, row_columns, first, n_blocks, f->by);
        quantize_affine(&u, f, &codes);
        for (int sub = 0; sub < N_SUB && first + sub / f->n_sub < n_blocks; sub += f->n_sub) {
            pack((char *)dst + (size_t)(first + sub / f->n_sub) * block_bytes, &codes, sub);
        }
    }
}

INLINE void quantize_blocks_scaled(void *dst, size_t block_bytes, const float *x,
                                   const float *importance, int64_t n_blocks, int64_t row_columns,
                                   const scaled_format *f, pack_scaled_fn *pack) {
    for (int64_t first = 0; first < n_blocks; first += N_SUB / f->n_sub) {
        unit u;
        scaled_codes codes;
        load_unit(&u, f->n_columns, f->n_sub, x, importance, row_columns, first, n_blocks, f->by);
        quantize_scaled(&u, f, &codes);
        for (int sub = 0; sub < N_SUB && first + sub / f->n_sub < n_blocks; sub += f->n_sub) {
            pack((char *)dst + (size_t)(first + sub / f->n_sub) * block_bytes, &codes, sub);
        }
    }
}

#define DEFINE_SEARCH(search, type)                                                                \
    static void search_##type(void *dst, const float *x, const float *importance, int64_t n_rows,  \
                              int64_t n_cols) {                                                    \
        const int64_t columns = format_##type.n_columns * format_##type.n_sub;                     \
        quantize_blocks_##search(dst, sizeof(ce_block_##type), x, importance,                      \
                                 n_rows *(n_cols / columns), n_cols, &format_##type, pack_##type); \
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
