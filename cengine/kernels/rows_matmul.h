/* The matmuls of the block types, ROWS weight rows at a time: included by the file of each tier,
 * after its *_rows.h and with its name in TIER. rows_accumulate.h says in which order sums are
 * made, rows_stream.h and rows_panels.h how the integers are found, for few tokens and for many.
 * Rows beyond the last repeat it, and are not stored. */
#ifndef CE_ROWS_MATMUL_H
#define CE_ROWS_MATMUL_H

#include "overlay.h"
#include "rows_panels.h"
#include "rows_stream.h"

#define FOR_BLOCK_TYPES(DO)                                                                        \
    DO(Q4_0, q4_0)                                                                                 \
    DO(Q4_1, q4_1)                                                                                 \
    DO(Q5_0, q5_0)                                                                                 \
    DO(Q5_1, q5_1)                                                                                 \
    DO(Q8_0, q8_0)                                                                                 \
    DO(Q2_K, q2_K)                                                                                 \
    DO(Q3_K, q3_K)                                                                                 \
    DO(Q4_K, q4_K)                                                                                 \
    DO(Q5_K, q5_K)                                                                                 \
    DO(Q6_K, q6_K)                                                                                 \
    DO(IQ4_NL, iq4_nl)                                                                             \
    DO(IQ4_XS, iq4_xs)                                                                             \
    DO(IQ3_XXS, iq3_xxs)                                                                           \
    DO(IQ3_S, iq3_s)                                                                               \
    DO(IQ2_XXS, iq2_xxs)                                                                           \
    DO(IQ2_XS, iq2_xs)                                                                             \
    DO(IQ2_S, iq2_s)                                                                               \
    DO(IQ1_S, iq1_s)                                                                               \
    DO(IQ1_M, iq1_m)

#define DEFINE_MATMUL(TYPE, type)                                                                  \
    static void matmul_##type(float *y, size_t y_stride, const void *w, size_t w_row_bytes,        \
                              int n_rows, const ce_acts *x, int n_tokens, int n_cols,              \
                              void *work) {                                                        \
        if (n_tokens < token_packing.min_tokens) {                                                 \
            matmul_stream(&format_##type, y, w, w_row_bytes, n_rows, x, n_cols);                   \
            return;                                                                                \
        }                                                                                          \
        const weight_rows rows = {w, w_row_bytes, n_rows, n_cols / CE_QK, &format_##type};         \
        if (n_tokens <= ROW_STREAM_TOKENS) {                                                       \
            matmul_stream_few(&format_##type, y, y_stride, rows, x->packed, n_tokens);             \
        } else {                                                                                   \
            matmul_panels(&format_##type, unpack_rows, y, y_stride, rows, x->packed, n_tokens,     \
                          work);                                                                   \
        }                                                                                          \
    }

FOR_BLOCK_TYPES(DEFINE_MATMUL)

#define OVERLAY_BLOCK_TYPE(TYPE, type)                                                             \
    OVERLAY_MATMUL(k, TIER, CE_TYPE_##TYPE, type, &token_packing);

static void overlay_block_types(ce_kernels *k) { FOR_BLOCK_TYPES(OVERLAY_BLOCK_TYPE) }

#endif
