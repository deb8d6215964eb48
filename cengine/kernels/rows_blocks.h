/* The block types as the SIMD tiers see them: quants of the rows in a vector, scales of ROWS rows.
 * Included after a tier's own *_rows.h. */
#ifndef CE_ROWS_BLOCKS_H
#define CE_ROWS_BLOCKS_H

#include <stddef.h>

#include "blocks.h"
#include "inline.h"

/* The most blocks of 32 columns between two looks at the scales. */
enum { SPAN = 8 };

/* Scales over a span: w = (scale * mult) * q - min * min_mult, with the integers mult and min_mult
 * per 16 columns: a block's two are floats, or both in a lane, of 16 bits each. What a type does
 * not have is left unset. */
typedef struct {
    floats scale[SPAN];
    floats min[SPAN];
    floats mult[SPAN][2];
    ints short_mult[SPAN];
    ints min_mult[SPAN];
} row_scales;

/* The span's columns as points in a grid: the points' indices (8 points of 4 columns in a block, or
 * 4 of 8), unless they are read where they are, and marked columns, a bit each. */
typedef struct {
    uint32_t index[SPAN][8][ROWS];
    uint32_t marked[SPAN][ROWS];
} span_points;

/* What the matmuls need to know of a type. */
typedef struct block_format {
    size_t block_bytes;
    int sub_blocks; /* of 32 columns, in a block */
    int max_quant;  /* the largest absolute value that quants() gives */
    int offset;     /* quants() gives q + offset, as unsigned bytes */
    bool is_signed; /* quants() gives q itself, as signed bytes */
    bool has_min;
    bool has_mult;
    bool has_short_mult; /* in place of mult: 16 bits hold it, and the sums that it multiplies */
    bool has_min_mult;   /* besides min and mult */
    /* The quants of a sub-block of 32 columns. NULL for the types whose quants are points: they
     * are found for all rows of a span first. */
    bytes (*quants)(slice s, int sub);
    /* Those of a quarter of the rows (k, k + 4, ...), whose blocks are at row[i] + at: columns
     * 0 ... 15 of each, and columns 16 ... 31. NULL for the types that gain nothing by it. */
    void (*halves)(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at, int sub);
    bool has_halves_at_once; /* both of them in 16 bytes */
    void (*find_points)(span_points *p, const struct block_format *f,
                        const uint8_t *const row[ROWS]);
    /* Those of block b, of the slice's rows, which is the k-th one. */
    bytes (*quants_of_points)(const struct block_format *f, const span_points *p, slice s, int k,
                              int b);
    bool has_points_of_4;
    size_t byte_indices; /* where a block's indices are, if each is a byte, with eight bytes for
                            every 32 columns; or else 0 */
    const void *grid;    /* of uint32_t (points of 4 columns) or of uint64_t (of 8) */
    /* The scales of n sub-blocks from row[i] on; n is SPAN for the types of 256 columns. */
    void (*scales)(row_scales *s, const uint8_t *const row[ROWS], int n);
} block_format;

enum { GROUPS = CE_QK / 4 }; /* of four columns, in a block */

enum { CACHE_LINE = 64 };

/* ---- Rows ---- */

/* Rows of weights, and what to know to read them. */
typedef struct {
    const uint8_t *w;
    size_t row_bytes;
    int n_rows;
    int n_blocks;       /* of 32 columns, in a row */
    const void *format; /* block_format, or repacked_format (repacked_blocks.h) */
} weight_rows;

/* ROWS rows from r on; rows beyond the last are the last. */
INLINE void point_at_rows(const uint8_t *row[ROWS], const void *w, size_t row_bytes, int r,
                          int n_rows) {
    for (int i = 0; i < ROWS; i++) {
        row[i] = (const uint8_t *)w + min_int(r + i, n_rows - 1) * row_bytes;
    }
}

INLINE size_t span_bytes(const block_format *f) { return SPAN / f->sub_blocks * f->block_bytes; }

INLINE void advance_rows(const uint8_t *row[ROWS], size_t by) {
    for (int i = 0; i < ROWS; i++) {
        row[i] += by;
    }
}

/* Blocks from b0 on that make a span, or what is left of one. */
INLINE int span_at(const block_format *f, int b0, int n_blocks) {
    return f->sub_blocks == SPAN ? SPAN : min_int(SPAN, n_blocks - b0);
}

/* The k-th vector's quants of block b of the span, fit for dot_4. */
INLINE bytes quants_at(const block_format *f, const uint8_t *const row[ROWS],
                       const span_points *points, int k, int b) {
    const slice s = slice_of(row, k, b / f->sub_blocks * f->block_bytes);
    const bytes q = f->quants != NULL ? f->quants(s, b % f->sub_blocks)
                                      : f->quants_of_points(f, points, s, k, b);
    return f->is_signed ? q ^ SIGNED_OFFSET : q;
}

/* The same of the k-th quarter of the rows, in halves. */
INLINE void halves_at(bytes half[2], const block_format *f, const uint8_t *const row[ROWS], int k,
                      int b) {
    f->halves(half, row, k, b / f->sub_blocks * f->block_bytes, b % f->sub_blocks);
    for (int h = 0; h < 2 && f->is_signed; h++) {
        half[h] ^= SIGNED_OFFSET;
    }
}

/* What has been added to the quants. */
INLINE int offset_of(const block_format *f) { return f->is_signed ? SIGNED_OFFSET : f->offset; }

/* ---- Pieces ---- */

typedef uint16_t words16 __attribute__((vector_size(4 * ROWS)));

/* The bits of `mask`, from bit `at` on, of each byte; at + the mask's width is at most 8. */
INLINE bytes bits(bytes v, int at, uint8_t mask) {
    return (bytes)((words16)v >> (uint16_t)at) & mask;
}

/* The bits from `from` on that the mask has, as those from `to` on. */
INLINE bytes moved_bits(bytes v, int from, int to, uint8_t mask) {
    const words16 moved =
        from > to ? (words16)v >> (uint16_t)(from - to) : (words16)v << (uint16_t)(to - from);
    return (bytes)moved & (uint8_t)(mask << to);
}

INLINE floats to_floats(ints v) { return __builtin_convertvector(v, floats); }

/* The `width` bits of each lane from bit `at` on. */
INLINE ints field(ints v, int at, int width) { return v >> at & ((1 << width) - 1); }

/* The `width` bits of each lane from bit `from` on, as those from `to` on. */
INLINE ints moved_field(ints v, int from, int to, int width) {
    const ints moved = from > to ? v >> (from - to) : v << (to - from);
    return moved & ((1 << width) - 1) << to;
}

/* In 16 bits each, the `width` bits of each lane from bit `at` on, and those a byte behind them. */
INLINE ints two_fields(ints v, int at, int width) {
    const ints second = at < 8 ? v << (8 - at) : v >> (at - 8);
    return field(v, at, width) | (second & ((1 << width) - 1) << 16);
}

/* Byte j of each lane, as a float. */
INLINE floats unsigned_byte(ints v, int j) { return to_floats(field(v, 8 * j, 8)); }

INLINE floats signed_byte(ints v, int j) { return to_floats(v << (24 - 8 * j) >> 24); }

/* The half float at row[i] + at of each row. */
INLINE floats half_of_rows(const uint8_t *const row[ROWS], size_t at) {
    half_floats v = {0};
    for (int i = 0; i < ROWS; i++) {
        uint16_t h;
        memcpy(&h, row[i] + at, sizeof h);
        v[i] = h;
    }
    return from_halves(v);
}

/* The 32-bit word at row[i] + at of each row. */
INLINE ints word_of_rows(const uint8_t *const row[ROWS], size_t at) {
    uint32_t words[ROWS];
    for (int i = 0; i < ROWS; i++) {
        memcpy(&words[i], row[i] + at, sizeof words[i]);
    }
    ints v;
    memcpy(&v, words, sizeof v);
    return v;
}

/* ---- Blocks of 32 columns ---- */

/* The fifth bits are the word at s.row[j] + qh. */
INLINE bytes with_fifth_bits(bytes low, slice s, size_t qh) {
    uint32_t high[ROWS_PER_VECTOR];
    for (int j = 0; j < ROWS_PER_VECTOR; j++) {
        memcpy(&high[j], s.row[j] + qh, sizeof high[j]);
    }
    return add_where(low, s, high, 16);
}

/* The low nibbles of the 16 bytes at row[i] + at, and the high ones. */
INLINE void split_nibbles(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at) {
    const bytes v = load_quarter(row, k, at);
    half[0] = bits(v, 0, 15);
    half[1] = bits(v, 4, 15);
}

INLINE void halves_q4_0(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at, int sub) {
    (void)sub;
    split_nibbles(half, row, k, at + offsetof(ce_block_q4_0, qs));
}

INLINE void halves_q4_1(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at, int sub) {
    (void)sub;
    split_nibbles(half, row, k, at + offsetof(ce_block_q4_1, qs));
}

INLINE bytes quants_q4_0(slice s, int sub) {
    (void)sub;
    return low_then_high(s, offsetof(ce_block_q4_0, qs));
}

INLINE bytes quants_q4_1(slice s, int sub) {
    (void)sub;
    return low_then_high(s, offsetof(ce_block_q4_1, qs));
}

INLINE bytes quants_q5_0(slice s, int sub) {
    (void)sub;
    return with_fifth_bits(low_then_high(s, offsetof(ce_block_q5_0, qs)), s,
                           offsetof(ce_block_q5_0, qh));
}

INLINE bytes quants_q5_1(slice s, int sub) {
    (void)sub;
    return with_fifth_bits(low_then_high(s, offsetof(ce_block_q5_1, qs)), s,
                           offsetof(ce_block_q5_1, qh));
}

INLINE bytes quants_q8_0(slice s, int sub) {
    (void)sub;
    return load_columns(s, offsetof(ce_block_q8_0, qs));
}

/* A block's scale is its first half float, and its min the second one's negative. All are read with
 * the 16 bytes that each of these blocks has, as the rest of them is wanted too. */
INLINE void scales_of_blocks(row_scales *s, const uint8_t *const row[ROWS], int n,
                             size_t block_bytes, bool has_min) {
    for (int b = 0; b < n; b++) {
        ints word[4];
        words_of_rows(word, row, b * block_bytes);
        s->scale[b] = half_in_lane(word[0]);
        if (has_min) {
            s->min[b] = -half_in_lane(word[0] >> 16);
        }
    }
}

/* The same of 18 bytes with a scale alone: two at once are found sooner than twice one. */
INLINE void scales_of_18_bytes(row_scales *s, const uint8_t *const row[ROWS], int n) {
    for (int b = 0; b + 1 < n; b += 2) {
        two_halves_of_rows(s->scale + b, row, 18 * b);
    }
    if (n % 2 != 0) {
        s->scale[n - 1] = half_of_rows(row, 18 * (n - 1));
    }
}

INLINE void scales_q4_0(row_scales *s, const uint8_t *const row[ROWS], int n) {
    _Static_assert(sizeof(ce_block_q4_0) == 18, "the bytes of a block");
    scales_of_18_bytes(s, row, n);
}

INLINE void scales_q4_1(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q4_1), true);
}

INLINE void scales_q5_0(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q5_0), false);
}

INLINE void scales_q5_1(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q5_1), true);
}

INLINE void scales_q8_0(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_q8_0), false);
}

/* ---- K types ---- */

/* Two bits of each column: 128 columns have 32 bytes. */
INLINE bytes pairs_of_bits(slice s, size_t at, int sub) {
    return bits(load_columns(s, at + 32 * (sub / 4)), 2 * (sub % 4), 3);
}

/* Four bits of each column: 64 columns have 32 bytes. */
INLINE bytes nibbles(slice s, size_t at, int sub) {
    return bits(load_columns(s, at + 32 * (sub / 2)), 4 * (sub % 2), 15);
}

INLINE bytes quants_q2_K(slice s, int sub) {
    return pairs_of_bits(s, offsetof(ce_block_q2_K, qs), sub);
}

INLINE bytes quants_q3_K(slice s, int sub) {
    const bytes hmask = load_columns(s, offsetof(ce_block_q3_K, hmask));
    return pairs_of_bits(s, offsetof(ce_block_q3_K, qs), sub) | moved_bits(hmask, sub, 2, 1);
}

INLINE bytes quants_q4_K(slice s, int sub) { return nibbles(s, offsetof(ce_block_q4_K, qs), sub); }

/* As nibbles(). */
INLINE void halves_of_nibbles(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at,
                              int sub) {
    for (int h = 0; h < 2; h++) {
        half[h] = bits(load_quarter(row, k, at + 32 * (sub / 2) + 16 * h), 4 * (sub % 2), 15);
    }
}

INLINE void halves_q4_K(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at, int sub) {
    halves_of_nibbles(half, row, k, at + offsetof(ce_block_q4_K, qs), sub);
}

INLINE void halves_q5_K(bytes half[2], const uint8_t *const row[ROWS], int k, size_t at, int sub) {
    halves_of_nibbles(half, row, k, at + offsetof(ce_block_q5_K, qs), sub);
    for (int h = 0; h < 2; h++) {
        const bytes qh = load_quarter(row, k, at + offsetof(ce_block_q5_K, qh) + 16 * h);
        half[h] |= moved_bits(qh, sub, 4, 1);
    }
}

INLINE bytes quants_q5_K(slice s, int sub) {
    const bytes qh = load_columns(s, offsetof(ce_block_q5_K, qh));
    return nibbles(s, offsetof(ce_block_q5_K, qs), sub) | moved_bits(qh, sub, 4, 1);
}

INLINE bytes quants_q6_K(slice s, int sub) {
    const int half = sub / 4, quarter = sub % 4;
    const size_t at = offsetof(ce_block_q6_K, ql) + 64 * half + 32 * (quarter % 2);
    const bytes qh = load_columns(s, offsetof(ce_block_q6_K, qh) + 32 * half);
    return bits(load_columns(s, at), 4 * (quarter / 2), 15) | moved_bits(qh, 2 * quarter, 4, 3);
}

INLINE void spread_scales_q2_K(row_scales *s, floats d, floats dmin, const ints word[4]) {
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = d;
        s->min[b] = dmin;
        s->short_mult[b] = two_fields(word[b / 2], 16 * (b % 2), 4);
        s->min_mult[b] = two_fields(word[b / 2], 16 * (b % 2) + 4, 4);
    }
}

INLINE void scales_q2_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const floats d = half_of_rows(row, offsetof(ce_block_q2_K, d));
    const floats dmin = half_of_rows(row, offsetof(ce_block_q2_K, dmin));
    ints word[4];
    words_of_rows(word, row, offsetof(ce_block_q2_K, scales));
    spread_scales_q2_K(s, d, dmin, word);
}

/* The layout is described at q3_K_scale in generic_blocks.h; here four scales at once. */
INLINE void spread_scales_q3_K(row_scales *s, floats d, const ints word[3]) {
    const bytes low[2] = {(bytes)word[0], (bytes)word[1]}, high = (bytes)word[2];
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = d;
    }
    for (int j = 0; j < 16; j += 4) {
        const bytes low4 = bits(low[j / 4 % 2], 4 * (j / 8), 15);
        const ints scales = (ints)(low4 | moved_bits(high, j / 2, 4, 3));
        for (int k = 0; k < 4; k += 2) {
            s->short_mult[(j + k) / 2] = (ints)((words16)two_fields(scales, 8 * k, 6) - 32);
        }
    }
}

INLINE void scales_q3_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const size_t at = offsetof(ce_block_q3_K, scales);
    const ints word[3] = {word_of_rows(row, at), word_of_rows(row, at + 4),
                          word_of_rows(row, at + 8)};
    spread_scales_q3_K(s, half_of_rows(row, offsetof(ce_block_q3_K, d)), word);
}

/* The 12 bytes of scales and mins of q4_K and q5_K. Their layout is described at unpack_scale_min
 * in generic_blocks.h; a word here has four sub-blocks. */
INLINE void spread_scales_q4_K(row_scales *s, floats d, floats dmin, const ints word[3]) {
    const int32_t low6 = 0x3f3f3f3f, low4 = 0x0f0f0f0f, bits45 = 0x30303030;
    const ints scale[2] = {word[0] & low6, (word[2] & low4) | (word[0] >> 2 & bits45)};
    const ints min[2] = {word[1] & low6, (word[2] >> 4 & low4) | (word[1] >> 2 & bits45)};
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = d * unsigned_byte(scale[b / 4], b % 4);
        s->min[b] = dmin * unsigned_byte(min[b / 4], b % 4);
    }
}

/* After d and dmin, in one piece of 16 bytes. */
INLINE void scales_q4_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    ints word[4];
    words_of_rows(word, row, 0);
    spread_scales_q4_K(s, half_in_lane(word[0]), half_in_lane(word[0] >> 16), word + 1);
}

INLINE void spread_scales_q6_K(row_scales *s, floats d, const ints word[4]) {
    for (int b = 0; b < SPAN; b++) {
        s->scale[b] = d;
        s->mult[b][0] = signed_byte(word[b / 2], 2 * (b % 2));
        s->mult[b][1] = signed_byte(word[b / 2], 2 * (b % 2) + 1);
    }
}

INLINE void scales_q6_K(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    ints word[4];
    words_of_rows(word, row, offsetof(ce_block_q6_K, scales));
    spread_scales_q6_K(s, half_of_rows(row, offsetof(ce_block_q6_K, d)), word);
}

/* ---- The table ---- */

static const block_format format_q4_0 = {.block_bytes = sizeof(ce_block_q4_0),
                                         .sub_blocks = 1,
                                         .max_quant = 15,
                                         .offset = 8,
                                         .quants = quants_q4_0,
                                         .halves = halves_q4_0,
                                         .has_halves_at_once = true,
                                         .scales = scales_q4_0};

static const block_format format_q4_1 = {.block_bytes = sizeof(ce_block_q4_1),
                                         .sub_blocks = 1,
                                         .max_quant = 15,
                                         .has_min = true,
                                         .quants = quants_q4_1,
                                         .halves = halves_q4_1,
                                         .has_halves_at_once = true,
                                         .scales = scales_q4_1};

static const block_format format_q5_0 = {.block_bytes = sizeof(ce_block_q5_0),
                                         .sub_blocks = 1,
                                         .max_quant = 31,
                                         .offset = 16,
                                         .quants = quants_q5_0,
                                         .scales = scales_q5_0};

static const block_format format_q5_1 = {.block_bytes = sizeof(ce_block_q5_1),
                                         .sub_blocks = 1,
                                         .max_quant = 31,
                                         .has_min = true,
                                         .quants = quants_q5_1,
                                         .scales = scales_q5_1};

static const block_format format_q8_0 = {.block_bytes = sizeof(ce_block_q8_0),
                                         .sub_blocks = 1,
                                         .max_quant = 128,
                                         .is_signed = true,
                                         .quants = quants_q8_0,
                                         .scales = scales_q8_0};

static const block_format format_q2_K = {.block_bytes = sizeof(ce_block_q2_K),
                                         .sub_blocks = 8,
                                         .max_quant = 3,
                                         .has_min = true,
                                         .has_mult = true,
                                         .has_short_mult = true,
                                         .has_min_mult = true,
                                         .quants = quants_q2_K,
                                         .scales = scales_q2_K};

static const block_format format_q3_K = {.block_bytes = sizeof(ce_block_q3_K),
                                         .sub_blocks = 8,
                                         .max_quant = 7,
                                         .offset = 4,
                                         .has_mult = true,
                                         .has_short_mult = true,
                                         .quants = quants_q3_K,
                                         .scales = scales_q3_K};

static const block_format format_q4_K = {.block_bytes = sizeof(ce_block_q4_K),
                                         .sub_blocks = 8,
                                         .max_quant = 15,
                                         .has_min = true,
                                         .quants = quants_q4_K,
                                         .halves = halves_q4_K,
                                         .scales = scales_q4_K};

static const block_format format_q5_K = {.block_bytes = sizeof(ce_block_q5_K),
                                         .sub_blocks = 8,
                                         .max_quant = 31,
                                         .has_min = true,
                                         .quants = quants_q5_K,
                                         .halves = halves_q5_K,
                                         .scales = scales_q4_K};

static const block_format format_q6_K = {.block_bytes = sizeof(ce_block_q6_K),
                                         .sub_blocks = 8,
                                         .max_quant = 63,
                                         .offset = 32,
                                         .has_mult = true,
                                         .quants = quants_q6_K,
                                         .scales = scales_q6_K};

#endif
