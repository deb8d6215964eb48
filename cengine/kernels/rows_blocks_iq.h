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

INLINE void halves_of_iq4(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at) {
    split_nibbles(half, row, k, at);
    half[0] = look_up(ce_iq4_numbers, half[0]);
    half[1] = look_up(ce_iq4_numbers, half[1]);
}

INLINE void halves_iq4_nl(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at,
                          int sub) {
    (void)sub;
    halves_of_iq4(half, row, k, at + offsetof(ce_block_iq4_nl, qs));
}

INLINE void halves_iq4_xs(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at,
                          int sub) {
    halves_of_iq4(half, row, k, at + offsetof(ce_block_iq4_xs, qs) + 16 * sub);
}

/* ---- Points ---- */

/* What the quants of iq1_s and iq1_m, in eighths and with the one more or less, are above 0. */
enum { IQ1_OFFSET = 9 };

/* Whether indices are read from the rows, and not put. */
INLINE bool has_indices_in_place(const block_format *f) {
    return f->byte_indices != 0 && !has_points_in_columns(f);
}

/* The points of block b, of the slice's rows. */
INLINE bytes look_up_points(const block_format *f, const span_points *p, slice s, int k, int b) {
    row_points points[ROWS_PER_VECTOR];
    for (int j = 0; j < ROWS_PER_VECTOR; j++) {
        const point_indices in_place = {s.row[j] + f->byte_indices + 8 * b, .are_bytes = true};
        const point_indices put = {p->index[b][0] + row_of(k, j), .step = ROWS};
        const point_indices indices = has_indices_in_place(f) ? in_place : put;
        points[j] = f->has_points_of_4 ? eight_points_of_4(f->grid, indices)
                                       : four_points_of_8(f->grid, indices);
    }
    return join_rows(s, points);
}

/* The marked columns of block b, of the rows of the k-th slice. */
INLINE void marked_in_slice(uint32_t marked[ROWS_PER_VECTOR], const span_points *p, int k, int b) {
    for (int j = 0; j < ROWS_PER_VECTOR; j++) {
        marked[j] = p->marked[b][row_of(k, j)];
    }
}

/* Marked columns are negative. */
INLINE bytes signed_points(const block_format *f, const span_points *p, slice s, int k, int b) {
    uint32_t negative[ROWS_PER_VECTOR];
    marked_in_slice(negative, p, k, b);
    return negate_where(look_up_points(f, p, s, k, b), s, negative) + (uint8_t)f->offset;
}

INLINE bool has_signs(const block_format *f) { return f->quants_of_points == signed_points; }

/* iq1: in eighths; marked columns are one less, the others one more. */
INLINE bytes shifted_points(const block_format *f, const span_points *p, slice s, int k, int b) {
    uint32_t down[ROWS_PER_VECTOR];
    marked_in_slice(down, p, k, b);
    return add_where(look_up_points(f, p, s, k, b) + (IQ1_OFFSET + 1), s, down, (uint8_t)-2);
}

/* The i-th points of block b, lanes being rows. */
INLINE void put_index(span_points *p, int b, int i, ints index) {
    memcpy(p->index[b][i], &index, sizeof p->index[b][i]);
}

typedef uint32_t unsigned_ints __attribute__((vector_size(4 * ROWS)));

INLINE void put_marked(span_points *p, int b, unsigned_ints marked) {
    memcpy(p->marked[b], &marked, sizeof p->marked[b]);
}

/* As even_signs() and unpack_signs() of grids.h, in each lane. */
INLINE unsigned_ints even_signs_of(unsigned_ints sevens) {
    unsigned_ints parity = sevens ^ (sevens >> 4);
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return sevens | (parity & 0x01010101) << 7;
}

INLINE unsigned_ints unpack_signs_of(ints packed) {
    const unsigned_ints v = (unsigned_ints)packed;
    return even_signs_of((v & 0x7f) | (v & 0x3f80) << 1 | (v & 0x1fc000) << 2 |
                         (v & 0xfe00000) << 3);
}

/* A word of signs for each block, from row[i] + at on. */
INLINE void put_words_of_signs(span_points *p, const uint8_t *const row[ROWS], size_t at,
                               bool are_packed) {
    for (int b = 0; b < SPAN; b += 4) {
        ints word[4];
        words_of_rows(word, row, at + 4 * b);
        for (int j = 0; j < 4; j++) {
            put_marked(p, b + j, are_packed ? unpack_signs_of(word[j]) : (unsigned_ints)word[j]);
        }
    }
}

/* Eight bytes for each block, the low bits of indices; bit i of byte b of `high` is the i-th ninth
 * one. */
INLINE void put_eight_indices(span_points *p, const uint8_t *const row[ROWS], size_t at,
                              const ints high[2]) {
    for (int b = 0; b < SPAN; b += 2) {
        const ints ninths = high[b / 4] >> 8 * (b % 4); /* shifts by constants are sooner done */
        ints word[4];
        words_of_rows(word, row, at + 8 * b);
        for (int i = 0; i < 16; i++) {
            const ints index = field(word[i / 4], 8 * (i % 4), 8);
            put_index(p, b + i / 8, i % 8, index | moved_field(ninths, i, 8, 1));
        }
    }
}

INLINE void find_points_iq3_xxs(span_points *p, const block_format *f,
                                const uint8_t *const row[ROWS]) {
    const ints none[2] = {{0}};
    if (!has_indices_in_place(f)) {
        put_eight_indices(p, row, offsetof(ce_block_iq3_xxs, qs), none);
    }
    put_words_of_signs(p, row, offsetof(ce_block_iq3_xxs, signs), true);
}

INLINE void find_points_iq3_s(span_points *p, const block_format *f,
                              const uint8_t *const row[ROWS]) {
    (void)f;
    ints high[4]; /* and behind it, other things */
    words_of_rows(high, row, offsetof(ce_block_iq3_s, qh));
    put_eight_indices(p, row, offsetof(ce_block_iq3_s, qs), high);
    put_words_of_signs(p, row, offsetof(ce_block_iq3_s, signs), false);
}

INLINE void find_points_iq2_xxs(span_points *p, const block_format *f,
                                const uint8_t *const row[ROWS]) {
    for (int b = 0; b < SPAN; b += 2) {
        ints word[4]; /* of two blocks */
        words_of_rows(word, row, offsetof(ce_block_iq2_xxs, sub) + 8 * b);
        if (!has_indices_in_place(f)) {
            for (int i = 0; i < 8; i++) {
                put_index(p, b + i / 4, i % 4, field(word[i / 4 * 2], 8 * (i % 4), 8));
            }
        }
        put_marked(p, b, unpack_signs_of(word[1]));
        put_marked(p, b + 1, unpack_signs_of(word[3]));
    }
}

/* Above the 9 bits of an index, twice in each word. */
INLINE unsigned_ints signs_above_indices(ints first, ints second) {
    const unsigned_ints low = (unsigned_ints)first, high = (unsigned_ints)second;
    return even_signs_of((low >> 9 & 0x7f) | (low >> 17 & 0x7f00) | (high << 7 & 0x7f0000) |
                         (high >> 1 & 0x7f000000));
}

INLINE void find_points_iq2_xs(span_points *p, const block_format *f,
                               const uint8_t *const row[ROWS]) {
    (void)f;
    for (int b = 0; b < SPAN; b += 2) {
        ints word[4]; /* of two blocks */
        words_of_rows(word, row, offsetof(ce_block_iq2_xs, qs) + 8 * b);
        for (int i = 0; i < 8; i++) {
            put_index(p, b + i / 4, i % 4, field(word[i / 2], 16 * (i % 2), 9));
        }
        put_marked(p, b, signs_above_indices(word[0], word[1]));
        put_marked(p, b + 1, signs_above_indices(word[2], word[3]));
    }
}

/* Four bytes for each block, from row[i] + at on, are the low bits of indices; `width` bits of
 * high[b / n], from bit b % n * 32 / n on, are the high ones, `step` bits apart. */
INLINE void put_four_indices(span_points *p, const uint8_t *const row[ROWS], size_t at,
                             const ints high[], int n, int width, int step) {
    for (int b = 0; b < SPAN; b += 4) {
        ints word[4];
        words_of_rows(word, row, at + 4 * b);
        for (int j = 0; j < 4; j++) {
            const int block = b + j;
            for (int i = 0; i < 4; i++) {
                const int from = block % n * 32 / n + step * i;
                const ints above = moved_field(high[block / n], from, 8, width);
                put_index(p, block, i, field(word[j], 8 * i, 8) | above);
            }
        }
    }
}

INLINE void find_points_iq2_s(span_points *p, const block_format *f,
                              const uint8_t *const row[ROWS]) {
    (void)f;
    ints high[4]; /* and behind it, the scales */
    words_of_rows(high, row, offsetof(ce_block_iq2_s, qh));
    put_four_indices(p, row, offsetof(ce_block_iq2_s, qs), high, 4, 2, 2);
    put_words_of_signs(p, row, offsetof(ce_block_iq2_s, signs), false);
}

INLINE void find_points_iq1_s(span_points *p, const block_format *f,
                              const uint8_t *const row[ROWS]) {
    (void)f;
    ints high[4];
    words_of_rows(high, row, offsetof(ce_block_iq1_s, qh));
    put_four_indices(p, row, offsetof(ce_block_iq1_s, qs), high, 2, 3, 3);
    for (int b = 0; b < SPAN; b++) {
        const ints down = high[b / 2] << (b % 2 ? 0 : 16) >> 31;
        put_marked(p, b, (unsigned_ints)down);
    }
}

INLINE void find_points_iq1_m(span_points *p, const block_format *f,
                              const uint8_t *const row[ROWS]) {
    (void)f;
    ints high[4];
    words_of_rows(high, row, offsetof(ce_block_iq1_m, qh));
    put_four_indices(p, row, offsetof(ce_block_iq1_m, qs), high, 2, 3, 4);
    for (int b = 0; b < SPAN; b++) {
        unsigned_ints down = {0}; /* a bit in each byte */
        for (int i = 0; i < 4; i++) {
            const ints bit = field(high[b / 2], 16 * (b % 2) + 4 * i + 3, 1);
            down |= (unsigned_ints)bit << 8 * i;
        }
        put_marked(p, b, (down << 8) - down);
    }
}

/* ---- Scales ---- */

INLINE void scales_iq4_nl(row_scales *s, const uint8_t *const row[ROWS], int n) {
    _Static_assert(sizeof(ce_block_iq4_nl) == 18, "the bytes of a block");
    scales_of_18_bytes(s, row, n);
}

/* Of each scale four low bits and two high ones. */
INLINE void spread_scales_iq4_xs(row_scales *s, floats d, ints low, ints high) {
    for (int b = 0; b < SPAN; b++) {
        const ints scale = field(low, 4 * b, 4) | field(high, 2 * b, 2) << 4;
        s->scale[b] = d * to_floats(scale - 32);
    }
}

INLINE void scales_iq4_xs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const ints word = word_of_rows(row, 0); /* d and scales_h */
    const ints low = word_of_rows(row, offsetof(ce_block_iq4_xs, scales_l));
    spread_scales_iq4_xs(s, half_in_lane(word), low, word >> 16);
}

/* 2 * v + 1 */
INLINE floats odd(ints v) { return to_floats(v << 1 | 1); }

INLINE floats d_times(float unit, const uint8_t *const row[ROWS], size_t at) {
    return half_of_rows(row, at) * unit;
}

INLINE void scales_iq3_xxs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const floats d = d_times(0.25f, row, 0);
    for (int b = 0; b < SPAN; b += 4) {
        ints word[4];
        words_of_rows(word, row, offsetof(ce_block_iq3_xxs, signs) + 4 * b);
        for (int j = 0; j < 4; j++) {
            s->scale[b + j] = d * odd(field(word[j], 28, 4));
        }
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
    for (int b = 0; b < SPAN; b += 2) {
        ints word[4]; /* indices and signs, of two blocks */
        words_of_rows(word, row, offsetof(ce_block_iq2_xxs, sub) + 8 * b);
        s->scale[b] = d * odd(field(word[1], 28, 4));
        s->scale[b + 1] = d * odd(field(word[3], 28, 4));
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
                                           .halves = halves_iq4_nl,
                                           .has_halves_at_once = true,
                                           .scales = scales_iq4_nl};

static const block_format format_iq4_xs = {.block_bytes = sizeof(ce_block_iq4_xs),
                                           .sub_blocks = 8,
                                           .max_quant = 127,
                                           .is_signed = true,
                                           .quants = quants_iq4_xs,
                                           .halves = halves_iq4_xs,
                                           .has_halves_at_once = true,
                                           .scales = scales_iq4_xs};

static const block_format format_iq3_xxs = {.block_bytes = sizeof(ce_block_iq3_xxs),
                                            .sub_blocks = 8,
                                            .max_quant = 2 * 62,
                                            .offset = 62,
                                            .has_points_of_4 = true,
                                            .byte_indices = offsetof(ce_block_iq3_xxs, qs),
                                            .find_points = find_points_iq3_xxs,
                                            .quants_of_points = signed_points,
                                            .grid = ce_iq3_xxs_grid,
                                            .scales = scales_iq3_xxs};

static const block_format format_iq3_s = {.block_bytes = sizeof(ce_block_iq3_s),
                                          .sub_blocks = 8,
                                          .max_quant = 2 * 15,
                                          .offset = 15,
                                          .has_points_of_4 = true,
                                          .find_points = find_points_iq3_s,
                                          .quants_of_points = signed_points,
                                          .grid = ce_iq3_s_grid,
                                          .scales = scales_iq3_s};

static const block_format format_iq2_xxs = {.block_bytes = sizeof(ce_block_iq2_xxs),
                                            .sub_blocks = 8,
                                            .max_quant = 2 * 43,
                                            .offset = 43,
                                            .byte_indices = offsetof(ce_block_iq2_xxs, sub),
                                            .find_points = find_points_iq2_xxs,
                                            .quants_of_points = signed_points,
                                            .grid = ce_iq2_xxs_grid,
                                            .scales = scales_iq2_xxs};

static const block_format format_iq2_xs = {.block_bytes = sizeof(ce_block_iq2_xs),
                                           .sub_blocks = 8,
                                           .max_quant = 2 * 43,
                                           .offset = 43,
                                           .has_mult = true,
                                           .find_points = find_points_iq2_xs,
                                           .quants_of_points = signed_points,
                                           .grid = ce_iq2_xs_grid,
                                           .scales = scales_iq2_xs};

static const block_format format_iq2_s = {.block_bytes = sizeof(ce_block_iq2_s),
                                          .sub_blocks = 8,
                                          .max_quant = 2 * 43,
                                          .offset = 43,
                                          .has_mult = true,
                                          .find_points = find_points_iq2_s,
                                          .quants_of_points = signed_points,
                                          .grid = ce_iq2_s_grid,
                                          .scales = scales_iq2_s};

static const block_format format_iq1_s = {.block_bytes = sizeof(ce_block_iq1_s),
                                          .sub_blocks = 8,
                                          .max_quant = 2 * IQ1_OFFSET,
                                          .offset = IQ1_OFFSET,
                                          .find_points = find_points_iq1_s,
                                          .quants_of_points = shifted_points,
                                          .grid = ce_iq1_grid,
                                          .scales = scales_iq1_s};

static const block_format format_iq1_m = {.block_bytes = sizeof(ce_block_iq1_m),
                                          .sub_blocks = 8,
                                          .max_quant = 2 * IQ1_OFFSET,
                                          .offset = IQ1_OFFSET,
                                          .has_mult = true,
                                          .find_points = find_points_iq1_m,
                                          .quants_of_points = shifted_points,
                                          .grid = ce_iq1_grid,
                                          .scales = scales_iq1_m};

#endif
