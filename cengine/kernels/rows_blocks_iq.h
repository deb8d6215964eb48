/* The IQ types, as in rows_blocks.h. Included after a tier's *_points.h. */
#ifndef CE_ROWS_BLOCKS_IQ_H
#define CE_ROWS_BLOCKS_IQ_H

#include "rows_blocks.h"

/* ---- Quants ---- */

INLINE bytes quants_iq4_nl(slice s, int sub) {
    (void)sub;
    return look_up(ce_iq4_numbers, low_then_high(s, offsetof(ce_block_iq4_nl, qs)));
}

INLINE bytes quants_iq4_xs(slice s, int sub) {
    return look_up(ce_iq4_numbers, low_then_high(s, offsetof(ce_block_iq4_xs, qs) + 16 * sub));
}

/* Points with their signs. */
#define DEFINE_SIGNED_QUANTS(type)                                                                 \
    INLINE bytes quants_##type(slice s, int sub) {                                                 \
        row_points points[ROWS_PER_VECTOR];                                                        \
        uint32_t signs[ROWS_PER_VECTOR];                                                           \
        for (int j = 0; j < ROWS_PER_VECTOR; j++) {                                                \
            points[j] = points_##type(s.row[j], sub);                                              \
            signs[j] = signs_##type(s.row[j], sub);                                                \
        }                                                                                          \
        return negate_where(join_rows(s, points), s, signs);                                       \
    }

DEFINE_SIGNED_QUANTS(iq3_xxs)
DEFINE_SIGNED_QUANTS(iq3_s)
DEFINE_SIGNED_QUANTS(iq2_xxs)
DEFINE_SIGNED_QUANTS(iq2_xs)
DEFINE_SIGNED_QUANTS(iq2_s)

/* Points in eighths, and 1 or -1, with an offset. */
#define DEFINE_SHIFTED_QUANTS(type)                                                                \
    INLINE bytes quants_##type(slice s, int sub) {                                                 \
        row_points points[ROWS_PER_VECTOR];                                                        \
        for (int j = 0; j < ROWS_PER_VECTOR; j++) {                                                \
            points[j] = shifted_points_##type(s.row[j], sub);                                      \
        }                                                                                          \
        return join_rows(s, points);                                                               \
    }

DEFINE_SHIFTED_QUANTS(iq1_s)
DEFINE_SHIFTED_QUANTS(iq1_m)

/* ---- Scales ---- */

INLINE void scales_iq4_nl(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_iq4_nl), false);
}

INLINE void scales_iq4_xs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const ints word = word_of_rows(row, 0); /* d and scales_h */
    const ints low = word_of_rows(row, offsetof(ce_block_iq4_xs, scales_l));
    const floats d = half_in_lane(word);
    for (int b = 0; b < SPAN; b++) {
        const ints high = field(word, 16 + 2 * b, 2) << 4;
        s->scale[b] = d * to_floats((field(low, 4 * b, 4) | high) - 32);
    }
}

/* 2 * v + 1 */
INLINE floats odd(ints v) { return to_floats(v << 1 | 1); }

INLINE floats d_times(float unit, const uint8_t *const row[ROWS], size_t at) {
    return half_of_rows(row, at) * unit;
}

INLINE void scales_iq3_xxs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const floats d = d_times(0.25f, row, 0);
    for (int b = 0; b < SPAN; b++) {
        const ints word = word_of_rows(row, offsetof(ce_block_iq3_xxs, signs) + 4 * b);
        s->scale[b] = d * odd(field(word, 28, 4));
    }
}

INLINE void scales_iq3_s(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const floats d = half_of_rows(row, 0);
    const ints word = word_of_rows(row, offsetof(ce_block_iq3_s, scales));
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = d * odd(field(word, 4 * b, 4));
    }
}

INLINE void scales_iq2_xxs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const floats d = d_times(0.125f, row, 0);
    for (int b = 0; b < SPAN; b++) {
        const ints word = word_of_rows(row, offsetof(ce_block_iq2_xxs, sub[0].signs) + 8 * b);
        s->scale[b] = d * odd(field(word, 28, 4));
    }
}

/* Sixteen nibbles at row[i] + at: scales of 16 columns. */
INLINE void scales_of_nibbles(row_scales *s, const uint8_t *const row[ROWS], size_t at) {
    const floats d = d_times(0.125f, row, 0);
    const ints word[2] = {word_of_rows(row, at), word_of_rows(row, at + 4)};
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = d;
        for (int h = 0; h < 2; h++) {
            const ints nibble = field(word[b / 4], 8 * (b % 4) + 4 * h, 4);
            s->mult[b][h] = odd(nibble);
        }
    }
}

INLINE void scales_iq2_xs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    scales_of_nibbles(s, row, offsetof(ce_block_iq2_xs, scales));
}

INLINE void scales_iq2_s(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    scales_of_nibbles(s, row, offsetof(ce_block_iq2_s, scales));
}

INLINE void scales_iq1_s(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const floats d = d_times(0.125f, row, 0);
    for (int b = 0; b < SPAN; b += 2) {
        const ints qh = word_of_rows(row, offsetof(ce_block_iq1_s, qh) + 2 * b);
        s->scale[b] = d * odd(field(qh, 12, 3));
        s->scale[b + 1] = d * odd(field(qh, 28, 3));
    }
}

INLINE void scales_iq1_m(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const size_t at = offsetof(ce_block_iq1_m, scales);
    const ints word[2] = {word_of_rows(row, at), word_of_rows(row, at + 4)};
    ints d = {0};
    for (int j = 0; j < 4; j++) {
        const ints nibble = field(word[j / 2], 16 * (j % 2) + 12, 4);
        d |= nibble << 4 * j;
    }
    const floats scale = half_in_lane(d) * 0.125f;
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = scale;
        for (int h = 0; h < 2; h++) {
            const ints three = field(word[b / 4], 16 * (b / 2 % 2) + 6 * (b % 2) + 3 * h, 3);
            s->mult[b][h] = odd(three);
        }
    }
}

/* ---- The table ---- */

static const block_format format_iq4_nl = {.block_bytes = sizeof(ce_block_iq4_nl),
                                           .sub_blocks = 1,
                                           .max_quant = 127,
                                           .is_signed = true,
                                           .quants = quants_iq4_nl,
                                           .scales = scales_iq4_nl};

static const block_format format_iq4_xs = {.block_bytes = sizeof(ce_block_iq4_xs),
                                           .sub_blocks = 8,
                                           .max_quant = 127,
                                           .is_signed = true,
                                           .quants = quants_iq4_xs,
                                           .scales = scales_iq4_xs};

static const block_format format_iq3_xxs = {.block_bytes = sizeof(ce_block_iq3_xxs),
                                            .sub_blocks = 8,
                                            .max_quant = 62,
                                            .is_signed = true,
                                            .quants = quants_iq3_xxs,
                                            .scales = scales_iq3_xxs};

static const block_format format_iq3_s = {.block_bytes = sizeof(ce_block_iq3_s),
                                          .sub_blocks = 8,
                                          .max_quant = 15,
                                          .is_signed = true,
                                          .quants = quants_iq3_s,
                                          .scales = scales_iq3_s};

static const block_format format_iq2_xxs = {.block_bytes = sizeof(ce_block_iq2_xxs),
                                            .sub_blocks = 8,
                                            .max_quant = 43,
                                            .is_signed = true,
                                            .quants = quants_iq2_xxs,
                                            .scales = scales_iq2_xxs};

static const block_format format_iq2_xs = {.block_bytes = sizeof(ce_block_iq2_xs),
                                           .sub_blocks = 8,
                                           .max_quant = 43,
                                           .is_signed = true,
                                           .has_mult = true,
                                           .quants = quants_iq2_xs,
                                           .scales = scales_iq2_xs};

static const block_format format_iq2_s = {.block_bytes = sizeof(ce_block_iq2_s),
                                          .sub_blocks = 8,
                                          .max_quant = 43,
                                          .is_signed = true,
                                          .has_mult = true,
                                          .quants = quants_iq2_s,
                                          .scales = scales_iq2_s};

static const block_format format_iq1_s = {.block_bytes = sizeof(ce_block_iq1_s),
                                          .sub_blocks = 8,
                                          .max_quant = 2 * IQ1_OFFSET,
                                          .offset = IQ1_OFFSET,
                                          .quants = quants_iq1_s,
                                          .scales = scales_iq1_s};

static const block_format format_iq1_m = {.block_bytes = sizeof(ce_block_iq1_m),
                                          .sub_blocks = 8,
                                          .max_quant = 2 * IQ1_OFFSET,
                                          .offset = IQ1_OFFSET,
                                          .has_mult = true,
                                          .quants = quants_iq1_m,
                                          .scales = scales_iq1_m};

#endif
