/* The searching quantizers of one tier: included by the file that is compiled for it. */
#ifndef CE_QUANTIZE_QUANTIZERS_H
#define CE_QUANTIZE_QUANTIZERS_H

#include "iq4.h"
#include "k_quants.h"
#include "kernels.h"

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

#define DEFINE_QUANTIZE(search, type)                                                              \
    static void quantize_##type(void *dst, const float *x, const float *importance,                \
                                int64_t n_rows, int64_t n_cols) {                                  \
        const int64_t columns = format_##type.n_columns * format_##type.n_sub;                     \
        quantize_blocks_##search(dst, sizeof(ce_block_##type), x, importance,                      \
                                 n_rows *(n_cols / columns), n_cols, &format_##type, pack_##type); \
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
