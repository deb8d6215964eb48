/* Eight weight rows in AVX2 registers: the vocabulary that rows_*.h are written in, but for the
 * products of quants (avx2_products.h, avxvnni_products.h). */
#ifndef CE_AVX2_ROWS_H
#define CE_AVX2_ROWS_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"

/* In `floats` and `ints` lanes are rows; a vector of bytes holds 32 of each of its rows. */
enum { ROWS = 8, ROWS_PER_VECTOR = 1, VECTORS = 8 };

/* Whether a quarter of the rows is loaded fast enough for half as many sums to pay, where 32 bytes
 * of a row could be loaded at once. */
enum { PREFERS_QUARTERS = 1 };

typedef float floats __attribute__((vector_size(4 * ROWS)));
typedef int32_t ints __attribute__((vector_size(4 * ROWS)));
typedef uint8_t bytes __attribute__((vector_size(4 * ROWS)));
typedef uint16_t half_floats __attribute__((vector_size(2 * ROWS)));

/* What a vector of bytes holds: 32 columns of a row. */
typedef struct {
    const uint8_t *row[ROWS_PER_VECTOR];
} slice;

/* The j-th row of the k-th vector. */
INLINE int row_of(int k, int j) { return k + j; }

/* The k-th vector of the blocks at row[i] + at. */
INLINE slice slice_of(const uint8_t *const row[ROWS], int k, size_t at) {
    return (slice){{row[k] + at}};
}

/* ---- Bytes ---- */

/* 32 columns of each row of the slice. */
INLINE bytes join_rows(slice s, const __m256i v[ROWS_PER_VECTOR]) {
    (void)s;
    return (bytes)v[0];
}

/* Of 32 columns those that the k-th vector is multiplied with, for each of its rows. */
INLINE bytes broadcast_columns(const int8_t *q, int k) {
    (void)k;
    return (bytes)_mm256_loadu_si256((const __m256i *)q);
}

INLINE bytes broadcast_4(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return (bytes)_mm256_set1_epi32(v);
}

/* 16 columns for each row of a quarter. */
INLINE bytes broadcast_16(const int8_t *q) {
    return (bytes)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)q));
}

/* The 16 bytes at row[i] + at of a quarter of the rows: i = k and k + 4. */
INLINE bytes load_quarter(const uint8_t *const row[ROWS], int k, size_t at) {
    return (bytes)_mm256_loadu2_m128i((const __m128i *)(row[k + 4] + at),
                                      (const __m128i *)(row[k] + at));
}

/* A byte per column. */
INLINE bytes load_columns(slice s, size_t at) {
    return (bytes)_mm256_loadu_si256((const __m256i *)(s.row[0] + at));
}

/* The low nibbles of 16 bytes, then the high ones. */
INLINE bytes low_then_high(slice s, size_t at) {
    const __m128i v = _mm_loadu_si128((const __m128i *)(s.row[0] + at));
    const __m256i both = _mm256_set_m128i(_mm_srli_epi16(v, 4), v);
    return (bytes)_mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* All ones in the bytes whose bit is 1. */
INLINE __m256i bytes_of_bits(uint32_t bits) {
    const __m256i which =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), which);
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}

/* A bit per column of each row says where. */
INLINE bytes add_where(bytes v, slice s, const uint32_t bits[ROWS_PER_VECTOR], uint8_t addend) {
    (void)s;
    return v + ((bytes)bytes_of_bits(bits[0]) & addend);
}

INLINE bytes negate_where(bytes v, slice s, const uint32_t bits[ROWS_PER_VECTOR]) {
    (void)s;
    const bytes negative = (bytes)bytes_of_bits(bits[0]);
    return (v ^ negative) - negative;
}

INLINE bytes look_up(const int8_t table[16], bytes index) {
    const __m128i numbers = _mm_loadu_si128((const __m128i *)table);
    return (bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(numbers), (__m256i)index);
}

/* ---- Floats ---- */

INLINE floats multiply_add(floats a, floats b, floats c) {
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

/* c - a * b */
INLINE floats subtract_product(floats a, floats b, floats c) {
    return (floats)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

INLINE floats from_halves(half_floats v) { return (floats)_mm256_cvtph_ps((__m128i)v); }

/* The low 16 bits of each lane, a half float. */
INLINE floats half_in_lane(ints v) {
    const __m256i low = (__m256i)(v & 0xffff);
    return (floats)_mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}

INLINE void store_rows(float *y, floats v, int n_rows) {
    const ints lane = {0, 1, 2, 3, 4, 5, 6, 7};
    _mm256_maskstore_ps(y, (__m256i)(lane < n_rows), (__m256)v);
}

/* ---- Shuffles ---- */

/* The four 32-bit words at row[i] + at of each row: out[j] lane i = word j of row i. */
INLINE void words_of_rows(ints out[4], const uint8_t *const row[ROWS], size_t at) {
    __m256i v[4];
    for (int i = 0; i < 4; i++) {
        v[i] = (__m256i)load_quarter(row, i, at);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(v[0], v[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(v[2], v[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(v[0], v[1]);
    const __m256i high23 = _mm256_unpackhi_epi32(v[2], v[3]);
    out[0] = (ints)_mm256_unpacklo_epi64(low01, low23);
    out[1] = (ints)_mm256_unpackhi_epi64(low01, low23);
    out[2] = (ints)_mm256_unpacklo_epi64(high01, high23);
    out[3] = (ints)_mm256_unpackhi_epi64(high01, high23);
}

/* The half floats at row[i] + at and 18 bytes behind it. 32 bytes are read. */
INLINE void two_halves_of_rows(floats out[2], const uint8_t *const row[ROWS], size_t at) {
    const __m256i first_then_second =
        _mm256_setr_epi64x(0x0d0c090805040100, -1, 0x0f0e0b0a07060302, -1);
    __m256i four[2]; /* of rows 4 k ... 4 k + 3 */
    for (int k = 0; k < 2; k++) {
        __m256i v[4];
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_si256((const __m256i *)(row[4 * k + i] + at));
        }
        const __m256i words = _mm256_unpacklo_epi64(_mm256_unpacklo_epi32(v[0], v[1]),
                                                    _mm256_unpacklo_epi32(v[2], v[3]));
        four[k] = _mm256_shuffle_epi8(words, first_then_second);
    }
    const __m256i both = _mm256_unpacklo_epi64(four[0], four[1]);
    out[0] = (floats)_mm256_cvtph_ps(_mm256_castsi256_si128(both));
    out[1] = (floats)_mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
}

/* out[g] lane i = the g-th four bytes of row i. */
INLINE void transpose(bytes out[8], const bytes v[VECTORS]) {
    __m256i quad[2][4]; /* of rows 4 k ... 4 k + 3: group g in the low half, 4 + g in the high */
    for (int k = 0; k < 2; k++) {
        const __m256i *r = (const __m256i *)v + 4 * k;
        const __m256i low01 = _mm256_unpacklo_epi32(r[0], r[1]);
        const __m256i high01 = _mm256_unpackhi_epi32(r[0], r[1]);
        const __m256i low23 = _mm256_unpacklo_epi32(r[2], r[3]);
        const __m256i high23 = _mm256_unpackhi_epi32(r[2], r[3]);
        quad[k][0] = _mm256_unpacklo_epi64(low01, low23);
        quad[k][1] = _mm256_unpackhi_epi64(low01, low23);
        quad[k][2] = _mm256_unpacklo_epi64(high01, high23);
        quad[k][3] = _mm256_unpackhi_epi64(high01, high23);
    }
    for (int g = 0; g < 4; g++) {
        out[g] = (bytes)_mm256_permute2x128_si256(quad[0][g], quad[1][g], 0x20);
        out[4 + g] = (bytes)_mm256_permute2x128_si256(quad[0][g], quad[1][g], 0x31);
    }
}

/* In each half: [a0 + a2, b0 + b2, a1 + a3, b1 + b3], and then [a, b, c, d] in full. */
INLINE __m256i merge_32(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}

INLINE __m256i merge_64(__m256i ab, __m256i cd) {
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

/* In each half: [a0 + a1, a2 + a3, b0 + b1, b2 + b3] of lanes that fit 16 bits; twice: [a, b, c,
 * d]. */
INLINE __m256i merge_short(__m256i a, __m256i b) {
    return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
}

INLINE __m256i merge(const __m256i v[4], bool short_sums) {
    return short_sums ? merge_short(merge_short(v[0], v[1]), merge_short(v[2], v[3]))
                      : merge_64(merge_32(v[0], v[1]), merge_32(v[2], v[3]));
}

/* From sums of four columns, row by row: lane i = the sum of columns 0 ... 15, and of columns
 * 16 ... 31, of row i. With short_sums, those of eight columns fit 16 bits. */
INLINE void sum_halves(ints half[2], const ints sums[VECTORS], bool short_sums) {
    const __m256i *v = (const __m256i *)sums;
    const __m256i low = merge(v, short_sums), high = merge(v + 4, short_sums);
    half[0] = (ints)_mm256_permute2x128_si256(low, high, 0x20);
    half[1] = (ints)_mm256_permute2x128_si256(low, high, 0x31);
}

/* From sums of the k-th quarter's rows: lane i = the sum of row i. With short_sums, those of two
 * lanes fit 16 bits. */
INLINE ints sum_quarters(const ints sums[4], bool short_sums) {
    return (ints)merge((const __m256i *)sums, short_sums);
}

/* ---- Products ---- */

/* In each lane, the products of two numbers of 16 bits, added. */
INLINE ints dot_2(ints a, ints b) { return (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b); }

#endif
