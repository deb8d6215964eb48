/* Q2_K ... Q6_K: their formats for the two searches, and how the codes are packed. */
#ifndef CE_QUANTIZE_K_QUANTS_H
#define CE_QUANTIZE_K_QUANTS_H

#include "affine.h"
#include "scaled.h"

static const affine_format format_q2_K = {
    .n_max = 3,
    .scale_max = 15,
    .n_columns = 16,
    .n_sub = 16,
    .first = -0.8f,
    .step = 0.1f,
    .n_guesses = 18,
    .n_rounds = 7,
    .by = {0, 1},
};
static const affine_format format_q4_K = {
    .n_max = 15,
    .scale_max = 63,
    .n_columns = 32,
    .n_sub = 8,
    .first = -0.8f,
    .step = 0.2f,
    .n_guesses = 12,
    .n_rounds = 2,
    .by = {0.25f, 2},
};
static const affine_format format_q5_K = {
    .n_max = 31,
    .scale_max = 63,
    .n_columns = 32,
    .n_sub = 8,
    .first = -0.8f,
    .step = 0.2f,
    .n_guesses = 12,
    .n_rounds = 2,
    .by = {1, 2},
};
static const scaled_format format_q3_K = {
    .low = -4,
    .high = 3,
    .scale_low = -32,
    .scale_high = 31,
    .n_columns = 16,
    .n_sub = 16,
    .first = -0.8f,
    .step = 0.15f,
    .n_guesses = 12,
    .n_rounds = 3,
    .by = {0.25f, 2},
};
static const scaled_format format_q6_K = {
    .low = -32,
    .high = 31,
    .scale_low = -128,
    .scale_high = 127,
    .n_columns = 16,
    .n_sub = 16,
    .first = -0.8f,
    .step = 0.2f,
    .n_guesses = 8,
    .n_rounds = 2,
    .by = {0.25f, -1},
};

/* See unpack_scale_min in generic_blocks.h. */
static inline void pack_scale_min(uint8_t packed[12], const float scale[8], const float min[8]) {
    for (int j = 0; j < 4; j++) {
        const unsigned high_scale = (unsigned)scale[4 + j], high_min = (unsigned)min[4 + j];
        packed[j] = (uint8_t)((unsigned)scale[j] | (high_scale >> 4) << 6);
        packed[4 + j] = (uint8_t)((unsigned)min[j] | (high_min >> 4) << 6);
        packed[8 + j] = (uint8_t)((high_scale & 15) | (high_min & 15) << 4);
    }
}

/* The functions below make a block of sub-blocks `sub` ... of the codes. */

static inline void pack_q4_K(ce_block_q4_K *block, const affine_codes *codes, int sub) {
    block->d = f32_to_f16(codes->d[sub]);
    block->dmin = f32_to_f16(codes->dmin[sub]);
    pack_scale_min(block->scales, codes->scale + sub, codes->offset + sub);
    for (int j = 0; j < 4; j++) {
        for (int c = 0; c < 32; c++) {
            const int low = codes->q[sub + 2 * j][c], high = codes->q[sub + 2 * j + 1][c];
            block->qs[32 * j + c] = (uint8_t)(low | high << 4);
        }
    }
}

static inline void pack_q5_K(ce_block_q5_K *block, const affine_codes *codes, int sub) {
    block->d = f32_to_f16(codes->d[sub]);
    block->dmin = f32_to_f16(codes->dmin[sub]);
    pack_scale_min(block->scales, codes->scale + sub, codes->offset + sub);
    memset(block->qh, 0, sizeof block->qh);
    for (int j = 0; j < 4; j++) {
        for (int c = 0; c < 32; c++) {
            const int low = codes->q[sub + 2 * j][c], high = codes->q[sub + 2 * j + 1][c];
            block->qs[32 * j + c] = (uint8_t)((low & 15) | (high & 15) << 4);
            block->qh[c] |= (uint8_t)((low >> 4 | high >> 4 << 1) << 2 * j);
        }
    }
}

/* Two bits of each of 256 codes; `code` is 16 sub-blocks of 16. */
static inline void pack_pairs_of_bits(uint8_t qs[64], const uint8_t code[CE_QK_K]) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *run = code + 128 * half;
        for (int c = 0; c < 32; c++) {
            qs[32 * half + c] = (uint8_t)((run[c] & 3) | (run[32 + c] & 3) << 2 |
                                          (run[64 + c] & 3) << 4 | (run[96 + c] & 3) << 6);
        }
    }
}

static inline void pack_q2_K(ce_block_q2_K *block, const affine_codes *codes, int sub) {
    uint8_t q[CE_QK_K];
    block->d = f32_to_f16(codes->d[sub]);
    block->dmin = f32_to_f16(codes->dmin[sub]);
    for (int j = 0; j < 16; j++) {
        block->scales[j] =
            (uint8_t)((unsigned)codes->scale[sub + j] | (unsigned)codes->offset[sub + j] << 4);
        memcpy(q + 16 * j, codes->q[sub + j], 16);
    }
    pack_pairs_of_bits(block->qs, q);
}

/* The codes of 16 sub-blocks of 16, made unsigned. */
static inline void unsigned_codes(uint8_t q[CE_QK_K], const scaled_codes *codes, int sub, int low) {
    for (int i = 0; i < CE_QK_K; i++) {
        q[i] = (uint8_t)(codes->q[sub + i / 16][i % 16] - low);
    }
}

static inline void pack_q3_K(ce_block_q3_K *block, const scaled_codes *codes, int sub) {
    uint8_t q[CE_QK_K];
    unsigned_codes(q, codes, sub, -4);
    block->d = f32_to_f16(codes->d[sub]);
    memset(block->scales, 0, sizeof block->scales);
    for (int j = 0; j < 16; j++) {
        const unsigned scale = (unsigned)(codes->scale[sub + j] + 32);
        block->scales[j % 8] |= (uint8_t)((scale & 15) << 4 * (j / 8));
        block->scales[8 + j % 4] |= (uint8_t)(scale >> 4 << 2 * (j / 4));
    }
    memset(block->hmask, 0, sizeof block->hmask);
    for (int i = 0; i < CE_QK_K; i++) {
        block->hmask[i % 32] |= (uint8_t)(q[i] >> 2 << i / 32);
    }
    pack_pairs_of_bits(block->qs, q);
}

static inline void pack_q6_K(ce_block_q6_K *block, const scaled_codes *codes, int sub) {
    uint8_t q[CE_QK_K], high[CE_QK_K];
    unsigned_codes(q, codes, sub, -32);
    block->d = f32_to_f16(codes->d[sub]);
    for (int j = 0; j < 16; j++) {
        block->scales[j] = (int8_t)codes->scale[sub + j];
    }
    for (int half = 0; half < 2; half++) {
        for (int c = 0; c < 64; c++) {
            const uint8_t *run = q + 128 * half + c;
            block->ql[64 * half + c] = (uint8_t)((run[0] & 15) | (run[64] & 15) << 4);
        }
    }
    for (int i = 0; i < CE_QK_K; i++) {
        high[i] = q[i] >> 4;
    }
    pack_pairs_of_bits(block->qh, high);
}

#endif
