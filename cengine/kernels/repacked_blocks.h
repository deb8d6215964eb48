/* Repacked weights (repack.h) as the SIMD tiers see them, ROWS lanes at a time: columns and scales.
 * Included after rows_blocks.h. */
#ifndef CE_REPACKED_BLOCKS_H
#define CE_REPACKED_BLOCKS_H

#include "repack.h"
#include "rows_blocks.h"
#include "rows_blocks_iq.h"

/* A group's sixteen rows fill so many vectors. */
enum { PARTS = CE_REPACK_ROWS / ROWS };

/* ---- Blocks ---- */

/* The j-th word of ROWS rows. */
INLINE bytes word_at(const uint8_t *words, int j) {
    bytes v;
    memcpy(&v, words + (size_t)j * CE_REPACK_ROWS * sizeof(uint32_t), sizeof v);
    return v;
}

INLINE half_floats half_word_at(const uint8_t *halves, int j) {
    half_floats v;
    memcpy(&v, halves + (size_t)j * CE_REPACK_ROWS * sizeof(uint16_t), sizeof v);
    return v;
}

INLINE floats half_at(const uint8_t *halves, int j) { return from_halves(half_word_at(halves, j)); }

INLINE bytes nibbles_at(const uint8_t *words, int j, int high) {
    return bits(word_at(words, j), 4 * high, 15);
}

/* The bits 4 g ... 4 g + 3 of each lane, each as bit 4 of a byte. */
INLINE bytes fifth_bits(ints word, int g) {
    const ints four = (g == 0 ? word << 4 : word >> (4 * g - 4)) & 0xf0;
    const ints two = four | four << 7;
    return (bytes)(two | two << 14) & 0x10;
}

/* Columns 4 g ... 4 g + 3 of sub-block `sub` of 32, row by row. */
INLINE bytes columns_q4_0(const uint8_t *words, int sub, int g) {
    return nibbles_at(words, 4 * sub + g % 4, g / 4);
}

INLINE bytes columns_q5_0(const uint8_t *words, int sub, int g) {
    return nibbles_at(words, SPAN + 4 * sub + g % 4, g / 4) |
           fifth_bits((ints)word_at(words, sub), g);
}

INLINE bytes columns_q8_0(const uint8_t *words, int sub, int g) {
    return word_at(words, 8 * sub + g);
}

INLINE bytes columns_q2_K(const uint8_t *words, int sub, int g) {
    return bits(word_at(words, 4 + 8 * (sub / 4) + g), 2 * (sub % 4), 3);
}

INLINE bytes columns_q3_K(const uint8_t *words, int sub, int g) {
    return bits(word_at(words, 11 + 8 * (sub / 4) + g), 2 * (sub % 4), 3) |
           moved_bits(word_at(words, 3 + g), sub, 2, 1);
}

INLINE bytes columns_q4_K(const uint8_t *words, int sub, int g) {
    return nibbles_at(words, 3 + 8 * (sub / 2) + g, sub % 2);
}

INLINE bytes columns_q5_K(const uint8_t *words, int sub, int g) {
    return nibbles_at(words, 11 + 8 * (sub / 2) + g, sub % 2) |
           moved_bits(word_at(words, 3 + g), sub, 4, 1);
}

INLINE bytes columns_q6_K(const uint8_t *words, int sub, int g) {
    const int half = sub / 4, quarter = sub % 4;
    return nibbles_at(words, 4 + 16 * half + 8 * (quarter % 2) + g, quarter / 2) |
           moved_bits(word_at(words, 36 + 8 * half + g), 2 * quarter, 4, 3);
}

INLINE bytes columns_iq4_nl(const uint8_t *words, int sub, int g) {
    return look_up(ce_iq4_numbers, columns_q4_0(words, sub, g));
}

INLINE bytes columns_iq4_xs(const uint8_t *words, int sub, int g) {
    return look_up(ce_iq4_numbers, nibbles_at(words, 1 + 4 * sub + g % 4, g / 4));
}

/* ---- Scales ---- */

/* The first n words, which hold the scales. */
INLINE void first_words(ints out[], const uint8_t *words, int n) {
    for (int j = 0; j < n; j++) {
        out[j] = (ints)word_at(words, j);
    }
}

INLINE void repacked_scales_of_blocks(row_scales *s, const uint8_t *halves, const uint8_t *words) {
    (void)words;
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = half_at(halves, b);
    }
}

INLINE void repacked_scales_and_mins(row_scales *s, const uint8_t *halves, const uint8_t *words) {
    (void)words;
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = half_at(halves, 2 * b);
        s->min[b] = -half_at(halves, 2 * b + 1);
    }
}

INLINE void repacked_scales_q2_K(row_scales *s, const uint8_t *halves, const uint8_t *words) {
    ints word[4];
    first_words(word, words, 4);
    spread_scales_q2_K(s, half_at(halves, 0), half_at(halves, 1), word);
}

INLINE void repacked_scales_q3_K(row_scales *s, const uint8_t *halves, const uint8_t *words) {
    ints word[3];
    first_words(word, words, 3);
    spread_scales_q3_K(s, half_at(halves, 0), word);
}

INLINE void repacked_scales_q4_K(row_scales *s, const uint8_t *halves, const uint8_t *words) {
    ints word[3];
    first_words(word, words, 3);
    spread_scales_q4_K(s, half_at(halves, 0), half_at(halves, 1), word);
}

INLINE void repacked_scales_q6_K(row_scales *s, const uint8_t *halves, const uint8_t *words) {
    ints word[4];
    first_words(word, words, 4);
    spread_scales_q6_K(s, half_at(halves, 0), word);
}

INLINE void repacked_scales_iq4_xs(row_scales *s, const uint8_t *halves, const uint8_t *words) {
    const ints high = __builtin_convertvector(half_word_at(halves, 1), ints);
    spread_scales_iq4_xs(s, half_at(halves, 0), (ints)word_at(words, 0), high);
}

/* ---- Spans ---- */

typedef struct {
    const block_format *f;
    int n_halves; /* of a row's span */
    bytes (*columns)(const uint8_t *words, int sub, int g);
    void (*scales)(row_scales *s, const uint8_t *halves, const uint8_t *words);
} repacked_format;

/* The halves and words of ROWS rows in a span. */
typedef struct {
    const uint8_t *halves, *words;
} repacked_span;

INLINE size_t group_span_bytes(const block_format *f) { return CE_REPACK_ROWS * span_bytes(f); }

/* The span from block b0 on of ROWS of a group's rows. */
INLINE repacked_span part_of_group(const repacked_format *r, const uint8_t *group, int part, int b0,
                                   int n_blocks) {
    const size_t halves = (size_t)r->n_halves * CE_REPACK_ROWS * sizeof(uint16_t);
    const size_t words = group_span_bytes(r->f) - halves;
    const int n_paired = ce_repack_paired_spans(r->n_halves);
    const int span = b0 / SPAN, second = span % n_paired;
    const int n_spans = min_int(n_paired, n_blocks / SPAN - (span - second));
    const uint8_t *pair = group + (size_t)(span - second) * (halves + words);
    return (repacked_span){
        pair + (size_t)second * halves + (size_t)part * ROWS * sizeof(uint16_t),
        pair + (size_t)n_spans * halves + (size_t)second * words +
            (size_t)part * ROWS * sizeof(uint32_t),
    };
}

INLINE void prefetch_line(const uint8_t *line, bool into_l1) {
    if (into_l1) {
        __builtin_prefetch(line, 0, 3);
    } else {
        __builtin_prefetch(line, 0, 2);
    }
}

/* The first line of the i-th of n parts of a group's span. One that fills no whole lines ends in
 * the middle of one, which counts. */
INLINE size_t line_of_span(const block_format *f, int i, int n) {
    return i * ((group_span_bytes(f) + CACHE_LINE - 1) / CACHE_LINE) / n * CACHE_LINE;
}

/* Fetches the i-th of n parts of a group's span. */
INLINE void prefetch_span(const block_format *f, const uint8_t *span, int i, int n, bool into_l1) {
    for (size_t at = line_of_span(f, i, n); at < line_of_span(f, i + 1, n); at += CACHE_LINE) {
        prefetch_line(span + at, into_l1);
    }
}

/* A span from block b0 on of ROWS rows from r on; rows beyond the last are the last ones. */
INLINE repacked_span span_of(const weight_rows *w, int r, int b0) {
    const int first = min_int(r, w->n_rows - ROWS), part = first % CE_REPACK_ROWS / ROWS;
    const uint8_t *group = w->w + (size_t)(first - part * ROWS) * w->row_bytes;
    return part_of_group(w->format, group, part, b0, w->n_blocks);
}

/* Fit for dot_4. */
INLINE bytes columns_at(const repacked_format *r, repacked_span span, int b, int g) {
    const bytes q = r->columns(span.words, b, g);
    return r->f->is_signed ? q ^ SIGNED_OFFSET : q;
}

/* ---- The table ---- */

static const repacked_format repacked_q4_0 = {&format_q4_0, SPAN, columns_q4_0,
                                              repacked_scales_of_blocks};
static const repacked_format repacked_q4_1 = {&format_q4_1, 2 * SPAN, columns_q4_0,
                                              repacked_scales_and_mins};
static const repacked_format repacked_q5_0 = {&format_q5_0, SPAN, columns_q5_0,
                                              repacked_scales_of_blocks};
static const repacked_format repacked_q5_1 = {&format_q5_1, 2 * SPAN, columns_q5_0,
                                              repacked_scales_and_mins};
static const repacked_format repacked_q8_0 = {&format_q8_0, SPAN, columns_q8_0,
                                              repacked_scales_of_blocks};
static const repacked_format repacked_q2_K = {&format_q2_K, 2, columns_q2_K, repacked_scales_q2_K};
static const repacked_format repacked_q3_K = {&format_q3_K, 1, columns_q3_K, repacked_scales_q3_K};
static const repacked_format repacked_q4_K = {&format_q4_K, 2, columns_q4_K, repacked_scales_q4_K};
static const repacked_format repacked_q5_K = {&format_q5_K, 2, columns_q5_K, repacked_scales_q4_K};
static const repacked_format repacked_q6_K = {&format_q6_K, 1, columns_q6_K, repacked_scales_q6_K};
static const repacked_format repacked_iq4_nl = {&format_iq4_nl, SPAN, columns_iq4_nl,
                                                repacked_scales_of_blocks};
static const repacked_format repacked_iq4_xs = {&format_iq4_xs, 2, columns_iq4_xs,
                                                repacked_scales_iq4_xs};

#define FOR_REPACKED_TYPES(DO)                                                                     \
    DO(Q4_0, q4_0)                                                                                 \
    DO(Q4_1, q4_1)                                                                                 \
    DO(Q5_0, q5_0)                                                                                 \
    DO(Q5_1, q5_1)                                                                                 \
    DO(Q8_0, q8_0)                                                                                 \
    DO(Q2_K, q2_K)                                                                                 \
    DO(Q3_K, q3_K)                                                                                 \
    DO(Q4_K, q4_K)                                                                                 \
    DO(Q5_K, q5_K)                                                                                 \
    DO(Q6_K, q6_K)                                                                                 \
    DO(IQ4_NL, iq4_nl)                                                                             \
    DO(IQ4_XS, iq4_xs)

#endif
