/* The constant tables of the IQ types, and how these pack signs. Byte i of a row, from the lowest,
 * is the i-th coordinate of a point. */
#ifndef CE_GRIDS_H
#define CE_GRIDS_H

#include <stdbool.h>
#include <stdint.h>

extern const int8_t ce_iq4_numbers[16]; /* iq4_nl, iq4_xs */
/* The levels of coordinates, by their digits in grid_points.h; iq2's digit may be in bits 2 and 3
 * as well. */
extern const uint8_t ce_iq2_levels[16];
extern const uint8_t ce_iq3_xxs_levels[16];
extern const uint8_t ce_iq3_s_levels[16];
extern const uint32_t ce_iq3_xxs_grid[256];
extern const uint32_t ce_iq3_s_grid[512];
extern const uint64_t ce_iq2_xxs_grid[256];
extern const uint64_t ce_iq2_xs_grid[512];
extern const uint64_t ce_iq2_s_grid[1024];
extern const uint64_t ce_iq1_grid[2048]; /* in eighths: -8, 0 or 8 */

/* Indices of points: bytes as a file has them, or words, `step` apart. */
typedef struct {
    const void *first;
    bool are_bytes;
    int step; /* of words */
} point_indices;

static inline uint32_t point_index(point_indices indices, int i) {
    return indices.are_bytes ? ((const uint8_t *)indices.first)[i]
                             : ((const uint32_t *)indices.first)[i * indices.step];
}

/* Four bytes of signs from seven bits in each: the eighth makes the number of negations even. */
static inline uint32_t even_signs(uint32_t sevens) {
    uint32_t parity = sevens ^ (sevens >> 4);
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return sevens | (parity & 0x01010101) << 7;
}

/* The signs of a sub-block of iq2_xxs or iq3_xxs, a bit per column; `packed` holds four indices of
 * 7 bits, and above them a scale. */
static inline uint32_t unpack_signs(uint32_t packed) {
    return even_signs((packed & 0x7f) | (packed & 0x3f80) << 1 | (packed & 0x1fc000) << 2 |
                      (packed & 0xfe00000) << 3);
}

#endif
