/* The types before the K-quants where an importance matrix says which errors matter: the searches
 * of the K-quants, for blocks that are one sub-block of 32 columns. */
#ifndef CE_QUANTIZE_LEGACY_SEARCH_H
#define CE_QUANTIZE_LEGACY_SEARCH_H

#include "affine.h"
#include "legacy.h"
#include "scaled.h"

static const scaled_format format_q4_0 = {
    .low = -8,
    .high = 7,
    .scale_low = 1,
    .scale_high = 1,
    .n_columns = CE_QK,
    .n_sub = 1,
    .first = -0.8f,
    .step = 0.2f,
    .n_guesses = 12,
    .n_rounds = 3,
    .by = {0.25f, 1},
};
static const scaled_format format_q5_0 = {
    .low = -16,
    .high = 15,
    .scale_low = 1,
    .scale_high = 1,
    .n_columns = CE_QK,
    .n_sub = 1,
    .first = -0.8f,
    .step = 0.2f,
    .n_guesses = 12,
    .n_rounds = 3,
    .by = {0.25f, 1},
};
static const affine_format format_q4_1 = {
    .n_max = 15,
    .scale_max = 1,
    .n_columns = CE_QK,
    .n_sub = 1,
    .first = -0.9f,
    .step = 0.1f,
    .n_guesses = 24,
    .n_rounds = 3,
    .by = {0.25f, 2},
};
static const affine_format format_q5_1 = {
    .n_max = 31,
    .scale_max = 1,
    .n_columns = CE_QK,
    .n_sub = 1,
    .first = -0.9f,
    .step = 0.1f,
    .n_guesses = 24,
    .n_rounds = 3,
    .by = {0.25f, 2},
};

static inline void codes_from_zero(uint8_t q[CE_QK], const int8_t points[CE_QK], int half) {
    for (int i = 0; i < CE_QK; i++) {
        q[i] = (uint8_t)(points[i] + half);
    }
}

static inline void pack_q4_0(ce_block_q4_0 *block, const scaled_codes *codes, int sub) {
    uint8_t q[CE_QK];
    codes_from_zero(q, codes->q[sub], 8);
    block->d = f32_to_f16(codes->d[sub]);
    pack_nibbles(block->qs, q);
}

static inline void pack_q5_0(ce_block_q5_0 *block, const scaled_codes *codes, int sub) {
    uint8_t q[CE_QK];
    codes_from_zero(q, codes->q[sub], 16);
    block->d = f32_to_f16(codes->d[sub]);
    block->qh = fifth_bits(q);
    pack_nibbles(block->qs, q);
}

static inline void pack_q4_1(ce_block_q4_1 *block, const affine_codes *codes, int sub) {
    block->d = f32_to_f16(codes->d[sub] * codes->scale[sub]);
    block->m = f32_to_f16(-codes->dmin[sub] * codes->offset[sub]);
    pack_nibbles(block->qs, codes->q[sub]);
}

static inline void pack_q5_1(ce_block_q5_1 *block, const affine_codes *codes, int sub) {
    block->d = f32_to_f16(codes->d[sub] * codes->scale[sub]);
    block->m = f32_to_f16(-codes->dmin[sub] * codes->offset[sub]);
    block->qh = fifth_bits(codes->q[sub]);
    pack_nibbles(block->qs, codes->q[sub]);
}

#endif
