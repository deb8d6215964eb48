/* The IQ types, unpacked to the common form of generic_blocks.h. */
#ifndef CE_GENERIC_BLOCKS_IQ_H
#define CE_GENERIC_BLOCKS_IQ_H

#include "generic_blocks.h"
#include "grids.h"

static inline void unpack_numbers(int8_t q[CE_QK], const uint8_t qs[CE_QK / 2]) {
    for (int i = 0; i < 16; i++) {
        q[i] = ce_iq4_numbers[qs[i] & 15];
        q[16 + i] = ce_iq4_numbers[qs[i] >> 4];
    }
}

static inline void unpack_iq4_nl(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq4_nl *block = (const ce_block_iq4_nl *)row + b;
    *out = (columns32){.scale = f16_to_f32(block->d), .mult = {1, 1}};
    unpack_numbers(out->q, block->qs);
}

static inline void unpack_iq4_xs(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq4_xs *block = (const ce_block_iq4_xs *)row + b / 8;
    const int sub = (int)(b % 8);
    const int low = (block->scales_l[sub / 2] >> (4 * (sub % 2))) & 15;
    const int high = (block->scales_h >> (2 * sub)) & 3;
    const int scale = (low | high << 4) - 32;
    *out = (columns32){.scale = f16_to_f32(block->d) * (float)scale, .mult = {1, 1}};
    unpack_numbers(out->q, block->qs + 16 * sub);
}

/* Eight columns: a row of a grid (or two rows of four), negated where a bit of `signs` is 1. */
static inline void unpack_points(int8_t q[8], uint64_t row, unsigned signs) {
    for (int i = 0; i < 8; i++) {
        const int magnitude = (int)(row >> (8 * i)) & 255;
        q[i] = (int8_t)((signs >> i) & 1 ? -magnitude : magnitude);
    }
}

static inline uint64_t pair_of_fours(uint32_t first, uint32_t second) {
    return first | (uint64_t)second << 32;
}

static inline void unpack_iq3_xxs(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq3_xxs *block = (const ce_block_iq3_xxs *)row + b / 8;
    const int sub = (int)(b % 8);
    const uint8_t *qs = block->qs + 8 * sub;
    const uint32_t signs = unpack_signs(block->signs[sub]);
    const int scale = 2 * (int)(block->signs[sub] >> 28) + 1;
    *out = (columns32){.scale = f16_to_f32(block->d) * 0.25f * (float)scale, .mult = {1, 1}};
    for (int i = 0; i < 4; i++) {
        unpack_points(out->q + 8 * i,
                      pair_of_fours(ce_iq3_xxs_grid[qs[2 * i]], ce_iq3_xxs_grid[qs[2 * i + 1]]),
                      signs >> (8 * i));
    }
}

static inline void unpack_iq3_s(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq3_s *block = (const ce_block_iq3_s *)row + b / 8;
    const int sub = (int)(b % 8);
    const int scale = 2 * ((block->scales[sub / 2] >> (4 * (sub % 2))) & 15) + 1;
    *out = (columns32){.scale = f16_to_f32(block->d) * (float)scale, .mult = {1, 1}};
    uint32_t point[8];
    for (int j = 0; j < 8; j++) {
        const int high = (block->qh[sub] >> j) & 1;
        point[j] = ce_iq3_s_grid[block->qs[8 * sub + j] | high << 8];
    }
    for (int i = 0; i < 4; i++) {
        unpack_points(out->q + 8 * i, pair_of_fours(point[2 * i], point[2 * i + 1]),
                      block->signs[4 * sub + i]);
    }
}

static inline void unpack_iq2_xxs(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq2_xxs *block = (const ce_block_iq2_xxs *)row + b / 8;
    const int sub = (int)(b % 8);
    const uint32_t packed = block->sub[sub].signs, signs = unpack_signs(packed);
    const int scale = 2 * (int)(packed >> 28) + 1;
    *out = (columns32){.scale = f16_to_f32(block->d) * 0.125f * (float)scale, .mult = {1, 1}};
    for (int i = 0; i < 4; i++) {
        unpack_points(out->q + 8 * i, ce_iq2_xxs_grid[block->sub[sub].qs[i]], signs >> (8 * i));
    }
}

static inline void unpack_iq2_xs(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq2_xs *block = (const ce_block_iq2_xs *)row + b / 8;
    const int sub = (int)(b % 8), scales = block->scales[sub];
    *out = (columns32){.scale = f16_to_f32(block->d) * 0.125f,
                       .mult = {2 * (scales & 15) + 1, 2 * (scales >> 4) + 1}};
    for (int i = 0; i < 4; i++) {
        const unsigned q = block->qs[4 * sub + i];
        unpack_points(out->q + 8 * i, ce_iq2_xs_grid[q & 511], even_signs(q >> 9));
    }
}

static inline void unpack_iq2_s(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq2_s *block = (const ce_block_iq2_s *)row + b / 8;
    const int sub = (int)(b % 8), scales = block->scales[sub];
    *out = (columns32){.scale = f16_to_f32(block->d) * 0.125f,
                       .mult = {2 * (scales & 15) + 1, 2 * (scales >> 4) + 1}};
    for (int i = 0; i < 4; i++) {
        const int high = (block->qh[sub] >> (2 * i)) & 3;
        unpack_points(out->q + 8 * i, ce_iq2_s_grid[block->qs[4 * sub + i] | high << 8],
                      block->signs[4 * sub + i]);
    }
}

/* Eight columns of iq1, in eighths: a point, and 1 more or less. */
static inline void unpack_shifted(int8_t q[8], uint64_t row, int shift) {
    for (int i = 0; i < 8; i++) {
        q[i] = (int8_t)((int8_t)(row >> (8 * i)) + shift);
    }
}

static inline void unpack_iq1_s(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq1_s *block = (const ce_block_iq1_s *)row + b / 8;
    const int sub = (int)(b % 8), qh = block->qh[sub];
    const int scale = 2 * ((qh >> 12) & 7) + 1;
    *out = (columns32){.scale = f16_to_f32(block->d) * 0.125f * (float)scale, .mult = {1, 1}};
    for (int i = 0; i < 4; i++) {
        const int high = (qh >> (3 * i)) & 7;
        unpack_shifted(out->q + 8 * i, ce_iq1_grid[block->qs[4 * sub + i] | high << 8],
                       qh >> 15 ? -1 : 1);
    }
}

static inline uint16_t iq1_m_scale(const ce_block_iq1_m *block) {
    int d = 0;
    for (int i = 0; i < 4; i++) {
        d |= block->scales[i] >> 12 << (4 * i);
    }
    return (uint16_t)d;
}

static inline void unpack_iq1_m(columns32 *out, const void *row, int64_t b) {
    const ce_block_iq1_m *block = (const ce_block_iq1_m *)row + b / 8;
    const int sub = (int)(b % 8);
    const int scales = block->scales[sub / 2] >> (6 * (sub % 2));
    *out = (columns32){.scale = f16_to_f32(iq1_m_scale(block)) * 0.125f,
                       .mult = {2 * (scales & 7) + 1, 2 * ((scales >> 3) & 7) + 1}};
    for (int i = 0; i < 4; i++) {
        const int nibble = (block->qh[2 * sub + i / 2] >> (4 * (i % 2))) & 15;
        unpack_shifted(out->q + 8 * i, ce_iq1_grid[block->qs[4 * sub + i] | (nibble & 7) << 8],
                       nibble >> 3 ? -1 : 1);
    }
}

#endif
