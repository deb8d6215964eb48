/* The points of the grid types in NEON registers, 32 columns at a time of one row. */
#ifndef CE_NEON_POINTS_H
#define CE_NEON_POINTS_H

#include <arm_neon.h>

#include "rows_points.h"

/* 32 columns of a row. */
typedef uint8x16x2_t row_points;

/* Rows of a grid of points of 4, and of points of 8. */
static inline row_points eight_points_of_4(const uint32_t *grid, const unsigned index[8]) {
    uint32_t v[8];
    for (int i = 0; i < 8; i++) {
        v[i] = grid[index[i]];
    }
    return vld1q_u8_x2((const uint8_t *)v);
}

static inline row_points four_points_of_8(const uint64_t *grid, const unsigned index[4]) {
    uint64_t v[4];
    for (int i = 0; i < 4; i++) {
        v[i] = grid[index[i]];
    }
    return vld1q_u8_x2((const uint8_t *)v);
}

/* ---- iq3_xxs, iq3_s ---- */

static inline row_points points_iq3_xxs(const uint8_t *block, int sub) {
    const uint8_t *qs = ((const ce_block_iq3_xxs *)block)->qs + 8 * sub;
    unsigned index[8];
    for (int i = 0; i < 8; i++) {
        index[i] = qs[i];
    }
    return eight_points_of_4(ce_iq3_xxs_grid, index);
}

static inline row_points points_iq3_s(const uint8_t *block, int sub) {
    const ce_block_iq3_s *b = (const ce_block_iq3_s *)block;
    unsigned index[8];
    for (int i = 0; i < 8; i++) {
        index[i] = b->qs[8 * sub + i] | ((unsigned)b->qh[sub] << (8 - i) & 0x100);
    }
    return eight_points_of_4(ce_iq3_s_grid, index);
}

/* ---- iq2_xxs, iq2_xs, iq2_s ---- */

static inline row_points points_iq2_xxs(const uint8_t *block, int sub) {
    const uint8_t *qs = ((const ce_block_iq2_xxs *)block)->sub[sub].qs;
    const unsigned index[4] = {qs[0], qs[1], qs[2], qs[3]};
    return four_points_of_8(ce_iq2_xxs_grid, index);
}

static inline row_points points_iq2_xs(const uint8_t *block, int sub) {
    const uint64_t words = words_iq2_xs(block, sub);
    unsigned index[4];
    for (int i = 0; i < 4; i++) {
        index[i] = words >> 16 * i & 511;
    }
    return four_points_of_8(ce_iq2_xs_grid, index);
}

static inline row_points points_iq2_s(const uint8_t *block, int sub) {
    const ce_block_iq2_s *b = (const ce_block_iq2_s *)block;
    unsigned index[4];
    for (int i = 0; i < 4; i++) {
        index[i] = b->qs[4 * sub + i] | ((unsigned)b->qh[sub] << (8 - 2 * i) & 0x300);
    }
    return four_points_of_8(ce_iq2_s_grid, index);
}

/* ---- iq1_s, iq1_m: in eighths, with the one more or less, and IQ1_OFFSET ---- */

/* Three high bits of each index, `step` bits apart. */
static inline row_points points_iq1(const uint8_t *qs, unsigned high, int step) {
    unsigned index[4];
    for (int i = 0; i < 4; i++) {
        index[i] = qs[i] | (high >> step * i & 7) << 8;
    }
    return four_points_of_8(ce_iq1_grid, index);
}

/* IQ1_OFFSET and one more, or less where `down`, for eight columns. */
static inline uint8x8_t shift_iq1(bool down) {
    return vdup_n_u8((uint8_t)(IQ1_OFFSET + (down ? -1 : 1)));
}

static inline row_points shifted_points_iq1_s(const uint8_t *block, int sub) {
    const ce_block_iq1_s *b = (const ce_block_iq1_s *)block;
    const uint8x8_t shift = shift_iq1(b->qh[sub] >> 15);
    row_points v = points_iq1(b->qs + 4 * sub, b->qh[sub], 3);
    for (int i = 0; i < 2; i++) {
        v.val[i] = vaddq_u8(v.val[i], vcombine_u8(shift, shift));
    }
    return v;
}

static inline row_points shifted_points_iq1_m(const uint8_t *block, int sub) {
    const ce_block_iq1_m *b = (const ce_block_iq1_m *)block;
    const unsigned nibbles = nibbles_iq1_m(block, sub);
    row_points v = points_iq1(b->qs + 4 * sub, nibbles, 4);
    for (int i = 0; i < 2; i++) {
        const unsigned pair = nibbles >> 8 * i;
        v.val[i] =
            vaddq_u8(v.val[i], vcombine_u8(shift_iq1(pair >> 3 & 1), shift_iq1(pair >> 7 & 1)));
    }
    return v;
}

#endif
