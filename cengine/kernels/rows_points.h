/* The grid types but for their points, which *_points.h of the instruction sets look up: a row's
 * signs, a bit per column of 32, and packed bits. */
#ifndef CE_ROWS_POINTS_H
#define CE_ROWS_POINTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "blocks.h"
#include "grids.h"

static inline uint32_t load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load_u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t signs_iq3_xxs(const uint8_t *block, int sub) {
    return unpack_signs(((const ce_block_iq3_xxs *)block)->signs[sub]);
}

static inline uint32_t signs_iq3_s(const uint8_t *block, int sub) {
    return load_u32(((const ce_block_iq3_s *)block)->signs + 4 * sub);
}

static inline uint32_t signs_iq2_xxs(const uint8_t *block, int sub) {
    return unpack_signs(((const ce_block_iq2_xxs *)block)->sub[sub].signs);
}

/* Four words: indices of 9 bits, and above them signs of 7. */
static inline uint64_t words_iq2_xs(const uint8_t *block, int sub) {
    return load_u64(block + offsetof(ce_block_iq2_xs, qs) + 8 * (size_t)sub);
}

static inline uint32_t signs_iq2_xs(const uint8_t *block, int sub) {
    const uint64_t q = words_iq2_xs(block, sub);
    return even_signs((uint32_t)((q >> 9 & 0x7f) | (q >> 17 & 0x7f00) | (q >> 25 & 0x7f0000) |
                                 (q >> 33 & 0x7f000000)));
}

static inline uint32_t signs_iq2_s(const uint8_t *block, int sub) {
    return load_u32(((const ce_block_iq2_s *)block)->signs + 4 * sub);
}

/* What the quants of iq1_s and iq1_m, in eighths and with the one more or less, are above 0. */
enum { IQ1_OFFSET = 9 };

/* Four nibbles of the points' high bits and shifts. */
static inline unsigned nibbles_iq1_m(const uint8_t *block, int sub) {
    const uint8_t *qh = ((const ce_block_iq1_m *)block)->qh + 2 * sub;
    return qh[0] | (unsigned)qh[1] << 8;
}

#endif
