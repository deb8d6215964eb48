/* IQ4_NL and IQ4_XS: codes are indices of a table of 16 points, close together around 0. */
#ifndef CE_QUANTIZE_IQ4_H
#define CE_QUANTIZE_IQ4_H

#include "k_quants.h"

static const int8_t iq4_points[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

static const scaled_format format_iq4_nl = {
    .low = -127,
    .high = 113,
    .points = iq4_points,
    .scale_low = 1,
    .scale_high = 1,
    .n_columns = 32,
    .n_sub = 1,
    .first = -24,
    .step = 6,
    .n_guesses = 8,
    .n_rounds = 3,
    .by = {0.25f, 2},
};
static const scaled_format format_iq4_xs = {
    .low = -127,
    .high = 113,
    .points = iq4_points,
    .scale_low = -32,
    .scale_high = 31,
    .n_columns = 32,
    .n_sub = 8,
    .first = -24,
    .step = 6,
    .n_guesses = 8,
    .n_rounds = 2,
    .by = {0.25f, 2},
};

static inline uint8_t iq4_index(int8_t point) {
    uint8_t index = 0;
    for (int k = 1; k < 16; k++) {
        index += point >= iq4_points[k];
    }
    return index;
}

static inline void pack_iq4_nibbles(uint8_t qs[16], const int8_t q[32]) {
    for (int c = 0; c < 16; c++) {
        qs[c] = (uint8_t)(iq4_index(q[c]) | iq4_index(q[16 + c]) << 4);
    }
}

static inline void pack_iq4_nl(ce_block_iq4_nl *block, const scaled_codes *codes, int sub) {
    block->d = f32_to_f16(codes->d[sub]);
    pack_iq4_nibbles(block->qs, codes->q[sub]);
}

static inline void pack_iq4_xs(ce_block_iq4_xs *block, const scaled_codes *codes, int sub) {
    block->d = f32_to_f16(codes->d[sub]);
    memset(block->scales_l, 0, sizeof block->scales_l);
    unsigned high = 0;
    for (int j = 0; j < 8; j++) {
        const unsigned scale = (unsigned)(codes->scale[sub + j] + 32);
        block->scales_l[j / 2] |= (uint8_t)((scale & 15) << 4 * (j % 2));
        high |= scale >> 4 << 2 * j;
        pack_iq4_nibbles(block->qs + 16 * j, codes->q[sub + j]);
    }
    block->scales_h = (uint16_t)high;
}

#endif
