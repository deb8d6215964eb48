/* Points of a grid in NEON registers. */
#ifndef CE_NEON_POINTS_H
#define CE_NEON_POINTS_H

#include <arm_neon.h>
#include <stdint.h>

#include "grids.h"
#include "inline.h"

/* 32 columns of a row. */
typedef uint8x16x2_t row_points;

INLINE row_points eight_points_of_4(const uint32_t *grid, point_indices indices) {
    uint32_t v[8];
    for (int i = 0; i < 8; i++) {
        v[i] = grid[point_index(indices, i)];
    }
    return vld1q_u8_x2((const uint8_t *)v);
}

INLINE row_points four_points_of_8(const uint64_t *grid, point_indices indices) {
    uint64_t v[4];
    for (int i = 0; i < 4; i++) {
        v[i] = grid[point_index(indices, i)];
    }
    return vld1q_u8_x2((const uint8_t *)v);
}

#endif
