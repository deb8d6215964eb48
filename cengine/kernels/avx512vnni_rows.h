/* Sixteen weight rows in AVX-512 registers: the vocabulary that rows_*.h are written in. */
#ifndef CE_AVX512VNNI_ROWS_H
#define CE_AVX512VNNI_ROWS_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"

/* In `floats` and `ints` lanes are rows; a vector of bytes holds 32 of each of its rows. */
enum { ROWS = 16, ROWS_PER_VECTOR = 2, VECTORS = 8 };

/* Whether a quarter of the rows is loaded fast enough for half as many sums to pay, where 32 bytes
 * of a row could be loaded at once. */
enum { PREFERS_QUARTERS = 0 };

/* What one sweep keeps in registers: PANELS times ROWS rows, TILE tokens. Two panels share the
 * loads of the activations, which would otherwise take as long as the products. The panels of
 * BLOCK_TILES sweeps lie in L1 together. */
enum { PANELS = 2, TILE = 4, BLOCK_TILES = 2 };

/* Up to so many tokens multiply weights sooner from registers than from panels: the file's rows,
 * and repacked ones. */
enum { ROW_STREAM_TOKENS = 4, REPACKED_STREAM_TOKENS = 8 };

/* What makes signed quants fit for dot_4: vpdpbusd multiplies unsigned weights. */
enum { SIGNED_OFFSET = 128 };

typedef float floats __attribute__((vector_size(4 * ROWS)));
typedef int32_t ints __attribute__((vector_size(4 * ROWS)));
typedef uint8_t bytes __attribute__((vector_size(4 * ROWS)));
typedef uint16_t half_floats __attribute__((vector_size(2 * ROWS)));

/* What a vector of bytes holds: 32 columns of one row, then those of another. */
typedef struct {
    const uint8_t *row[ROWS_PER_VECTOR];
} slice;

/* The j-th row of the k-th vector: (0, 4) (1, 5) (2, 6) (3, 7) (8, 12) (9, 13) (10, 14) (11, 15),
 * so that rows come out of the shuffles below in order. */
INLINE int row_of(int k, int j) { return (k < 4 ? k : k + 4) + 4 * j; }

/* The k-th vector of the blocks at row[i] + at. */
INLINE slice slice_of(const uint8_t *const row[ROWS], int k, size_t at) {
    return (slice){{row[row_of(k, 0)] + at, row[row_of(k, 1)] + at}};
}

/* ---- Bytes ---- */

/* 32 columns of each row of the slice. */
INLINE bytes join_rows(slice s, const __m256i v[ROWS_PER_VECTOR]) {
    (void)s;
    return (bytes)_mm512_inserti64x4(_mm512_castsi256_si512(v[0]), v[1], 1);
}

/* Of 32 columns those that the k-th vector is multiplied with, for each of its rows. */
INLINE bytes broadcast_columns(const int8_t *q, int k) {
    (void)k;
    return (bytes)_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)q));
}

INLINE bytes broadcast_4(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return (bytes)_mm512_set1_epi32(v);
}

INLINE __m128i load_128(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }

/* 16 columns for each row of a quarter. */
INLINE bytes broadcast_16(const int8_t *q) {
    return (bytes)_mm512_broadcast_i32x4(load_128((const uint8_t *)q));
}

/* The 16 bytes at row[i] + at of a quarter of the rows: i = k, k + 4, k + 8 and k + 12. */
INLINE bytes load_quarter(const uint8_t *const row[ROWS], int k, size_t at) {
    __m512i v = _mm512_castsi128_si512(load_128(row[k] + at));
    v = _mm512_inserti32x4(v, load_128(row[k + 4] + at), 1);
    v = _mm512_inserti32x4(v, load_128(row[k + 8] + at), 2);
    return (bytes)_mm512_inserti32x4(v, load_128(row[k + 12] + at), 3);
}

/* A byte per column. */
INLINE bytes load_columns(slice s, size_t at) {
    const __m256i v[ROWS_PER_VECTOR] = {_mm256_loadu_si256((const __m256i *)(s.row[0] + at)),
                                        _mm256_loadu_si256((const __m256i *)(s.row[1] + at))};
    return join_rows(s, v);
}

/* The low nibbles of 16 bytes, then the high ones; of one row, then of the other. */
INLINE bytes low_then_high(slice s, size_t at) {
    const __m512i first = _mm512_broadcast_i32x4(load_128(s.row[0] + at));
    const __m512i twice = _mm512_mask_broadcast_i32x4(first, 0xff00, load_128(s.row[1] + at));
    const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    return (bytes)_mm512_and_si512(_mm512_srlv_epi64(twice, shift), _mm512_set1_epi8(15));
}

/* A bit per byte, the first row's in the low 32. */
INLINE __mmask64 mask_of_bits(const uint32_t bits[ROWS_PER_VECTOR]) {
    return (__mmask64)bits[0] | (__mmask64)bits[1] << 32;
}

/* A bit per column of each row says where. */
INLINE bytes add_where(bytes v, slice s, const uint32_t bits[ROWS_PER_VECTOR], uint8_t addend) {
    (void)s;
    return (bytes)_mm512_mask_add_epi8((__m512i)v, mask_of_bits(bits), (__m512i)v,
                                       _mm512_set1_epi8((char)addend));
}

INLINE bytes negate_where(bytes v, slice s, const uint32_t bits[ROWS_PER_VECTOR]) {
    (void)s;
    return (bytes)_mm512_mask_sub_epi8((__m512i)v, mask_of_bits(bits), _mm512_setzero_si512(),
                                       (__m512i)v);
}

INLINE bytes look_up(const int8_t table[16], bytes index) {
    const __m128i numbers = _mm_loadu_si128((const __m128i *)table);
    return (bytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(numbers), (__m512i)index);
}

/* ---- Floats ---- */

INLINE floats multiply_add(floats a, floats b, floats c) {
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

/* c - a * b */
INLINE floats subtract_product(floats a, floats b, floats c) {
    return (floats)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

INLINE floats from_halves(half_floats v) { return (floats)_mm512_cvtph_ps((__m256i)v); }

/* The low 16 bits of each lane, a half float. */
INLINE floats half_in_lane(ints v) {
    return (floats)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)v));
}

INLINE void store_rows(float *y, floats v, int n_rows) {
    const __mmask16 mask = n_rows >= ROWS ? 0xffff : (__mmask16)((1 << n_rows) - 1);
    _mm512_mask_storeu_ps(y, mask, (__m512)v);
}

/* ---- Shuffles ---- */

/* Quarters 0 and 2 (even) or 1 and 3 (odd) of a, then of b. */
INLINE __m512i even_quarters(__m512i a, __m512i b) {
    return _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(2, 0, 2, 0));
}

INLINE __m512i odd_quarters(__m512i a, __m512i b) {
    return _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(3, 1, 3, 1));
}

/* In each quarter, four words of four vectors: out[j] word i = v[i] word j. */
INLINE void transpose_words(__m512i out[4], const __m512i v[4]) {
    const __m512i low01 = _mm512_unpacklo_epi32(v[0], v[1]);
    const __m512i high01 = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(v[2], v[3]);
    const __m512i high23 = _mm512_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm512_unpacklo_epi64(low01, low23);
    out[1] = _mm512_unpackhi_epi64(low01, low23);
    out[2] = _mm512_unpacklo_epi64(high01, high23);
    out[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* The four 32-bit words at row[i] + at of each row: out[j] lane i = word j of row i. */
INLINE void words_of_rows(ints out[4], const uint8_t *const row[ROWS], size_t at) {
    __m512i v[4];
    for (int i = 0; i < 4; i++) {
        v[i] = (__m512i)load_quarter(row, i, at);
    }
    transpose_words((__m512i *)out, v);
}

/* The half floats at row[i] + at and 18 bytes behind it. 32 bytes are read. */
INLINE void two_halves_of_rows(floats out[2], const uint8_t *const row[ROWS], size_t at) {
    const __m512i first_then_second =
        _mm512_broadcast_i64x4(_mm256_setr_epi64x(0x0d0c090805040100, -1, 0x0f0e0b0a07060302, -1));
    __m512i four[2]; /* of rows 4 k ... 4 k + 3, and of those 8 behind */
    for (int k = 0; k < 2; k++) {
        __m512i v[4];
        for (int i = 0; i < 4; i++) {
            const __m256i low = _mm256_loadu_si256((const __m256i *)(row[4 * k + i] + at));
            const __m256i high = _mm256_loadu_si256((const __m256i *)(row[4 * k + i + 8] + at));
            v[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        }
        const __m512i words = _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(v[0], v[1]),
                                                    _mm512_unpacklo_epi32(v[2], v[3]));
        four[k] = _mm512_shuffle_epi8(words, first_then_second);
    }
    const __m512i mixed = _mm512_unpacklo_epi64(four[0], four[1]);
    const __m512i both = _mm512_shuffle_i32x4(mixed, mixed, _MM_SHUFFLE(3, 1, 2, 0));
    out[0] = (floats)_mm512_cvtph_ps(_mm512_castsi512_si256(both));
    out[1] = (floats)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(both, 1));
}

/* out[g] lane i = the g-th four bytes of row i. */
INLINE void transpose(bytes out[8], const bytes v[VECTORS]) {
    __m512i quad[2][4]; /* group g of rows 8 k + 0 ... 3 in quarter 0, group 4 + g in quarter 1;
                           then the same of rows 8 k + 4 ... 7 */
    for (int k = 0; k < 2; k++) {
        transpose_words(quad[k], (const __m512i *)v + 4 * k);
    }
    for (int g = 0; g < 4; g++) {
        out[g] = (bytes)even_quarters(quad[0][g], quad[1][g]);
        out[4 + g] = (bytes)odd_quarters(quad[0][g], quad[1][g]);
    }
}

/* What transpose() was given. */
INLINE void transpose_back(bytes out[VECTORS], const bytes v[8]) {
    const __m512i low_halves = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high_halves = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i quad[2][4]; /* groups 4 k ... 4 k + 3 of row m in quarter 0, of 4 + m in quarter 1 */
    for (int k = 0; k < 2; k++) {
        transpose_words(quad[k], (const __m512i *)v + 4 * k);
    }
    for (int m = 0; m < 4; m++) {
        out[m] = (bytes)_mm512_permutex2var_epi64(quad[0][m], low_halves, quad[1][m]);
        out[4 + m] = (bytes)_mm512_permutex2var_epi64(quad[0][m], high_halves, quad[1][m]);
    }
}

/* In each quarter: [a0 + a2, b0 + b2, a1 + a3, b1 + b3], and then [a, b, c, d] in full. */
INLINE __m512i merge_32(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

INLINE __m512i merge_64(__m512i ab, __m512i cd) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* In each quarter: [a0 + a1, a2 + a3, b0 + b1, b2 + b3] of lanes that fit 16 bits; twice: [a, b, c,
 * d]. */
INLINE __m512i merge_short(__m512i a, __m512i b) {
    return _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1));
}

INLINE __m512i merge(const __m512i v[4], bool short_sums) {
    return short_sums ? merge_short(merge_short(v[0], v[1]), merge_short(v[2], v[3]))
                      : merge_64(merge_32(v[0], v[1]), merge_32(v[2], v[3]));
}

/* From sums of four columns, row by row: lane i = the sum of columns 0 ... 15, and of columns
 * 16 ... 31, of row i. With short_sums, those of eight columns fit 16 bits. */
INLINE void sum_halves(ints half[2], const ints sums[VECTORS], bool short_sums) {
    const __m512i *v = (const __m512i *)sums;
    const __m512i low = merge(v, short_sums), high = merge(v + 4, short_sums);
    half[0] = (ints)even_quarters(low, high);
    half[1] = (ints)odd_quarters(low, high);
}

/* From sums of the k-th quarter's rows: lane i = the sum of row i. With short_sums, those of two
 * lanes fit 16 bits. */
INLINE ints sum_quarters(const ints sums[4], bool short_sums) {
    return (ints)merge((const __m512i *)sums, short_sums);
}

/* ---- Products ---- */

/* In each lane, the products of two numbers of 16 bits, added. */
INLINE ints dot_2(ints a, ints b) { return (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b); }

/* sum plus, in each lane, the products of four bytes. */
INLINE ints dot_4(ints sum, bytes w, bytes x, int max_signed) {
    (void)max_signed; /* they have been made unsigned */
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
}

#include "rows_products.h"

#endif
