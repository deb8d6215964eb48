/* Points of a grid for sixteen rows at once, in AVX-512 registers: a point is looked up as a code
 * of 16 bits, whose digits are spread to bytes and then looked up as levels. Grids of 1024 points
 * or more would take too many registers: their points come row by row. */
#ifndef CE_AVX512VNNI_POINTS_H
#define CE_AVX512VNNI_POINTS_H

#include "avx2_points.h"
#include "avx512vnni_rows.h"
#include "grid_points.h"
#include "rows_blocks.h"

/* ---- Codes ---- */

/* Points of 8: two bits a column, as in grid_points.h. */
#define CODES_OF_8(a, b, c, d) a, b, c, d

/* Points of 4: four bits a column, of which the highest is 0. */
#define HEX_OF_OCTAL(code)                                                                         \
    ((code & 07) | (code & 070) << 1 | (code & 0700) << 2 | (code & 07000) << 3)
#define CODES_OF_4(a, b, c, d) HEX_OF_OCTAL(a), HEX_OF_OCTAL(b), HEX_OF_OCTAL(c), HEX_OF_OCTAL(d)

static const uint16_t iq3_xxs_codes[] = {IQ3_XXS_POINTS(CODES_OF_4)};
static const uint16_t iq3_s_codes[] = {IQ3_S_POINTS(CODES_OF_4)};
static const uint16_t iq2_xxs_codes[] = {IQ2_XXS_POINTS(CODES_OF_8)};
static const uint16_t iq2_xs_codes[] = {IQ2_XS_POINTS(CODES_OF_8)};

typedef struct {
    const uint16_t *codes; /* NULL: its points come row by row */
    int n_codes;
    const uint8_t *levels; /* by their digits in the codes */
} grid_codes;

INLINE grid_codes codes_of_grid(const void *grid) {
    return grid == ce_iq3_xxs_grid   ? (grid_codes){iq3_xxs_codes, 256, ce_iq3_xxs_levels}
           : grid == ce_iq3_s_grid   ? (grid_codes){iq3_s_codes, 512, ce_iq3_s_levels}
           : grid == ce_iq2_xxs_grid ? (grid_codes){iq2_xxs_codes, 256, ce_iq2_levels}
           : grid == ce_iq2_xs_grid  ? (grid_codes){iq2_xs_codes, 512, ce_iq2_levels}
                                     : (grid_codes){NULL, 0, NULL};
}

/* The codes that 32 words are the indices of, in a table of 64, and of twice as many. */
INLINE __m512i look_up_64(const uint16_t *codes, __m512i index) {
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(codes), index,
                                     _mm512_loadu_si512(codes + 32));
}

#define LOOK_UP(n, half)                                                                           \
    INLINE __m512i look_up_##n(const uint16_t *codes, __m512i index) {                             \
        return _mm512_mask_blend_epi16(_mm512_test_epi16_mask(index, _mm512_set1_epi16(half)),     \
                                       look_up_##half(codes, index),                               \
                                       look_up_##half(codes + half, index));                       \
    }

LOOK_UP(128, 64)
LOOK_UP(256, 128)
LOOK_UP(512, 256)

INLINE __m512i look_up_codes(grid_codes grid, __m512i index) {
    return grid.n_codes == 256 ? look_up_256(grid.codes, index) : look_up_512(grid.codes, index);
}

/* In each row's lane the codes of points 2 i and 2 i + 1 of block b. */
INLINE __m512i two_codes(const block_format *f, const span_points *p, int b, int i) {
    const __m512i first = _mm512_loadu_si512(p->index[b][2 * i]);
    const __m512i second = _mm512_loadu_si512(p->index[b][2 * i + 1]);
    return look_up_codes(codes_of_grid(f->grid),
                         _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
}

/* ---- Digits ---- */

/* In each lane, bytes i, j, k and l of it. */
INLINE __m512i bytes_of_lanes(__m512i v, int i, int j, int k, int l) {
    const int from = i | j << 8 | k << 16 | l << 24, lane = 0x04040404;
    return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(_mm_setr_epi32(
                                      from, from + lane, from + 2 * lane, from + 3 * lane)));
}

/* The four digits of two bits in byte j of each lane, a byte each: in bits 0 and 1, or in bits 2
 * and 3. */
INLINE __m512i digits_of_8(__m512i codes, int j) {
    const __m512i high_words_by_4 = _mm512_set1_epi32(0x00040000);
    const __m512i v = _mm512_srlv_epi16(bytes_of_lanes(codes, j, j, j, j), high_words_by_4);
    return _mm512_and_si512(v, _mm512_set1_epi32(0x0c030c03));
}

/* The four digits of four bits in word j of each lane, a byte each: in bits 0 ... 3; bit 7 is 0. */
INLINE __m512i digits_of_4(__m512i codes, int j) {
    const __m512i v = bytes_of_lanes(codes, 2 * j, 2 * j, 2 * j + 1, 2 * j + 1);
    const int where_a_then_b_else_c = 0xca;
    return _mm512_ternarylogic_epi32(_mm512_set1_epi16(0xff), v, _mm512_srli_epi16(v, 4),
                                     where_a_then_b_else_c);
}

/* ---- Columns ---- */

/* Whether the points of a type come in columns. */
INLINE bool has_points_in_columns(const block_format *f) {
    return codes_of_grid(f->grid).codes != NULL;
}

/* Block b: columns[g] has columns 4 g ... 4 g + 3 of each row in its lane. A level with its sign
 * and the type's offset is looked up in one of two tables. */
INLINE void columns_of_points(bytes columns[8], const block_format *f, const span_points *p,
                              int b) {
    const __m512i levels = (__m512i)_mm512_broadcast_i32x4(load_128(codes_of_grid(f->grid).levels));
    const __m512i offset = _mm512_set1_epi8((char)f->offset);
    const __m512i plus = _mm512_add_epi8(offset, levels), minus = _mm512_sub_epi8(offset, levels);
    const __m512i marked = _mm512_loadu_si512(p->marked[b]);
    const int groups_of_codes = f->has_points_of_4 ? 2 : 4;
    __m512i codes = plus;
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        if (g % groups_of_codes == 0) {
            codes = two_codes(f, p, b, g / groups_of_codes);
        }
        const __m512i digits =
            f->has_points_of_4 ? digits_of_4(codes, g % 2) : digits_of_8(codes, g % 4);
        const __m512i signs = bytes_of_lanes(marked, g / 2, g / 2, g / 2, g / 2);
        const __mmask64 negative = _mm512_test_epi8_mask(
            signs, _mm512_set1_epi32(g % 2 == 0 ? 0x08040201 : (int)0x80402010));
        columns[g] = (bytes)_mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(plus, digits), negative,
                                                     minus, digits);
    }
}

#endif
