/* Sizes of rows, and dequantization for the world outside. */
#include "blocks.h"
#include "error.h"
#include "kernels.h"

/* Columns and bytes of a block; a block of a float type is one element. */
static const struct {
    uint16_t columns;
    uint8_t bytes;
} blocks[CE_MAX_TYPE] = {
    [CE_TYPE_F32] = {1, 4},
    [CE_TYPE_F16] = {1, 2},
    [CE_TYPE_BF16] = {1, 2},
    [CE_TYPE_Q4_0] = {CE_QK, sizeof(ce_block_q4_0)},
    [CE_TYPE_Q4_1] = {CE_QK, sizeof(ce_block_q4_1)},
    [CE_TYPE_Q5_0] = {CE_QK, sizeof(ce_block_q5_0)},
    [CE_TYPE_Q5_1] = {CE_QK, sizeof(ce_block_q5_1)},
    [CE_TYPE_Q8_0] = {CE_QK, sizeof(ce_block_q8_0)},
    [CE_TYPE_Q2_K] = {CE_QK_K, sizeof(ce_block_q2_K)},
    [CE_TYPE_Q3_K] = {CE_QK_K, sizeof(ce_block_q3_K)},
    [CE_TYPE_Q4_K] = {CE_QK_K, sizeof(ce_block_q4_K)},
    [CE_TYPE_Q5_K] = {CE_QK_K, sizeof(ce_block_q5_K)},
    [CE_TYPE_Q6_K] = {CE_QK_K, sizeof(ce_block_q6_K)},
    [CE_TYPE_IQ4_NL] = {CE_QK, sizeof(ce_block_iq4_nl)},
    [CE_TYPE_IQ4_XS] = {CE_QK_K, sizeof(ce_block_iq4_xs)},
    [CE_TYPE_IQ3_XXS] = {CE_QK_K, sizeof(ce_block_iq3_xxs)},
    [CE_TYPE_IQ3_S] = {CE_QK_K, sizeof(ce_block_iq3_s)},
    [CE_TYPE_IQ2_XXS] = {CE_QK_K, sizeof(ce_block_iq2_xxs)},
    [CE_TYPE_IQ2_XS] = {CE_QK_K, sizeof(ce_block_iq2_xs)},
    [CE_TYPE_IQ2_S] = {CE_QK_K, sizeof(ce_block_iq2_s)},
    [CE_TYPE_IQ1_S] = {CE_QK_K, sizeof(ce_block_iq1_s)},
    [CE_TYPE_IQ1_M] = {CE_QK_K, sizeof(ce_block_iq1_m)},
};

uint64_t ce_row_bytes(int32_t type, int64_t n_cols) {
    if (type < 0 || type >= CE_MAX_TYPE || blocks[type].bytes == 0 || n_cols < 0) {
        return 0;
    }
    const int64_t columns = blocks[type].columns;
    const uint64_t n_blocks = (uint64_t)(n_cols / columns);
    if (n_cols % columns != 0 || n_blocks > UINT64_MAX / blocks[type].bytes) {
        return 0;
    }
    return n_blocks * blocks[type].bytes;
}

ce_status ce_dequantize(int32_t type, const void *src, float *dst, int64_t n_cols, ce_error *err) {
    if (ce_row_bytes(type, n_cols) == 0) {
        return ce_fail(
            err, CE_ERR_ARGUMENT,
            "cannot dequantize %lld columns of type %d: unknown type, or not whole blocks",
            (long long)n_cols, (int)type);
    }
    ce_kernels generic;
    ce_kernels_generic(&generic);
    generic.dequantize[type](dst, src, n_cols);
    return ce_ok(err);
}
