/* Four weight rows in NEON registers: the vocabulary that rows_*.h are written in. Products of
 * quants are those of the dot product instructions (Arm's FEAT_DotProd). */
#ifndef CE_NEON_ROWS_H
#define CE_NEON_ROWS_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"

/* In `floats` and `ints` lanes are rows; a vector of bytes holds 16 of one of its rows. */
enum { ROWS = 4, ROWS_PER_VECTOR = 1, VECTORS = 8 };

/* Whether half as many sums pay where 32 bytes of a row could be loaded at once: here no load has
 * more than 16. */
enum { PREFERS_QUARTERS = 1 };

/* What one sweep keeps in registers: PANELS times ROWS rows, TILE tokens. The panels of BLOCK_TILES
 * sweeps lie in L1 together. */
enum { PANELS = 4, TILE = 4, BLOCK_TILES = 2 };

/* Up to so many tokens multiply weights sooner from registers than from panels: the file's rows,
 * and repacked ones; not measured. */
enum { ROW_STREAM_TOKENS = 1, REPACKED_STREAM_TOKENS = 1 };

/* What makes signed quants fit for dot_4: nothing. Unsigned ones are below 128. */
enum { SIGNED_OFFSET = 0 };

typedef float floats __attribute__((vector_size(4 * ROWS)));
typedef int32_t ints __attribute__((vector_size(4 * ROWS)));
typedef uint8_t bytes __attribute__((vector_size(4 * ROWS)));
typedef uint16_t half_floats __attribute__((vector_size(2 * ROWS)));

/* What a vector of bytes holds: one half of the 32 columns of a row. */
typedef struct {
    const uint8_t *row[ROWS_PER_VECTOR];
    int half;
} slice;

/* The j-th row of the k-th vector. */
INLINE int row_of(int k, int j) { return k / 2 + j; }

/* The k-th vector of the blocks at row[i] + at. */
INLINE slice slice_of(const uint8_t *const row[ROWS], int k, size_t at) {
    return (slice){{row[k / 2] + at}, k % 2};
}

/* ---- Bytes ---- */

/* Of 32 columns of the slice's row those that it holds. */
INLINE bytes join_rows(slice s, const uint8x16x2_t v[ROWS_PER_VECTOR]) {
    return (bytes)v[0].val[s.half];
}

/* Of 32 columns those that the k-th vector is multiplied with. */
INLINE bytes broadcast_columns(const int8_t *q, int k) { return (bytes)vld1q_s8(q + 16 * (k % 2)); }

INLINE bytes broadcast_4(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return (bytes)vdupq_n_u32(v);
}

/* 16 columns for the row of a quarter. */
INLINE bytes broadcast_16(const int8_t *q) { return (bytes)vld1q_s8(q); }

/* The 16 bytes at row[i] + at of a quarter of the rows: i = k. */
INLINE bytes load_quarter(const uint8_t *const row[ROWS], int k, size_t at) {
    return (bytes)vld1q_u8(row[k] + at);
}

/* A byte per column. */
INLINE bytes load_columns(slice s, size_t at) {
    return (bytes)vld1q_u8(s.row[0] + at + 16 * s.half);
}

/* The low nibbles of 16 bytes, then the high ones. */
INLINE bytes low_then_high(slice s, size_t at) {
    const uint8x16_t v = vld1q_u8(s.row[0] + at);
    return (bytes)(s.half == 0 ? vandq_u8(v, vdupq_n_u8(15)) : vshrq_n_u8(v, 4));
}

/* All ones in the bytes whose bit is 1. */
INLINE bytes bytes_of_bits(uint32_t bits, int half) {
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint32_t low = bits >> 16 * half, high = low >> 8;
    const uint8x16_t spread = vcombine_u8(vdup_n_u8((uint8_t)low), vdup_n_u8((uint8_t)high));
    return (bytes)vtstq_u8(spread, vld1q_u8(bit));
}

/* A bit per column of each row says where. */
INLINE bytes add_where(bytes v, slice s, const uint32_t bits[ROWS_PER_VECTOR], uint8_t addend) {
    return v + (bytes_of_bits(bits[0], s.half) & addend);
}

INLINE bytes negate_where(bytes v, slice s, const uint32_t bits[ROWS_PER_VECTOR]) {
    const bytes negative = bytes_of_bits(bits[0], s.half);
    return (v ^ negative) - negative;
}

INLINE bytes look_up(const int8_t table[16], bytes index) {
    return (bytes)vqtbl1q_s8(vld1q_s8(table), (uint8x16_t)index);
}

/* ---- Floats ---- */

INLINE floats multiply_add(floats a, floats b, floats c) {
    return (floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

/* c - a * b */
INLINE floats subtract_product(floats a, floats b, floats c) {
    return (floats)vfmsq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

INLINE floats from_halves(half_floats v) { return (floats)vcvt_f32_f16((float16x4_t)v); }

/* The low 16 bits of each lane, a half float. */
INLINE floats half_in_lane(ints v) { return from_halves((half_floats)vmovn_s32((int32x4_t)v)); }

INLINE void store_rows(float *y, floats v, int n_rows) {
    if (n_rows >= ROWS) {
        vst1q_f32(y, (float32x4_t)v);
    } else {
        memcpy(y, &v, (size_t)n_rows * sizeof *y);
    }
}

/* ---- Shuffles ---- */

/* out[j] lane i = lane j of v[i * step]. */
INLINE void transpose_words(int32x4_t out[4], const int32x4_t *v, int step) {
    const int64x2_t even01 = (int64x2_t)vtrn1q_s32(v[0], v[step]);
    const int64x2_t odd01 = (int64x2_t)vtrn2q_s32(v[0], v[step]);
    const int64x2_t even23 = (int64x2_t)vtrn1q_s32(v[2 * step], v[3 * step]);
    const int64x2_t odd23 = (int64x2_t)vtrn2q_s32(v[2 * step], v[3 * step]);
    out[0] = (int32x4_t)vtrn1q_s64(even01, even23);
    out[1] = (int32x4_t)vtrn1q_s64(odd01, odd23);
    out[2] = (int32x4_t)vtrn2q_s64(even01, even23);
    out[3] = (int32x4_t)vtrn2q_s64(odd01, odd23);
}

/* The four 32-bit words at row[i] + at of each row: out[j] lane i = word j of row i. */
INLINE void words_of_rows(ints out[4], const uint8_t *const row[ROWS], size_t at) {
    int32x4_t v[ROWS];
    for (int i = 0; i < ROWS; i++) {
        v[i] = (int32x4_t)load_quarter(row, i, at);
    }
    transpose_words((int32x4_t *)out, v, 1);
}

/* The half floats at row[i] + at and 18 bytes behind it. */
INLINE void two_halves_of_rows(floats out[2], const uint8_t *const row[ROWS], size_t at) {
    for (int k = 0; k < 2; k++) {
        uint16_t v[ROWS];
        for (int i = 0; i < ROWS; i++) {
            memcpy(&v[i], row[i] + at + 18 * k, sizeof v[i]);
        }
        out[k] = from_halves((half_floats)vld1_u16(v));
    }
}

/* out[g] lane i = the g-th four bytes of row i. */
INLINE void transpose(bytes out[8], const bytes v[VECTORS]) {
    for (int half = 0; half < 2; half++) {
        transpose_words((int32x4_t *)out + 4 * half, (const int32x4_t *)v + half, 2);
    }
}

/* From sums of four columns, vector by vector: lane i = the sum of columns 0 ... 15, and of columns
 * 16 ... 31, of row i. */
INLINE void sum_halves(ints half[2], const ints sums[VECTORS], bool short_sums) {
    (void)short_sums; /* one instruction adds pairs of any */
    const int32x4_t *v = (const int32x4_t *)sums;
    for (int h = 0; h < 2; h++) {
        half[h] = (ints)vpaddq_s32(vpaddq_s32(v[h], v[2 + h]), vpaddq_s32(v[4 + h], v[6 + h]));
    }
}

/* From sums of the k-th quarter's row: lane i = the sum of row i. */
INLINE ints sum_quarters(const ints sums[4], bool short_sums) {
    (void)short_sums;
    const int32x4_t *v = (const int32x4_t *)sums;
    return (ints)vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

/* ---- Products ---- */

/* In each lane, the products of two numbers of 16 bits, added. */
INLINE ints dot_2(ints a, ints b) {
    const int16x8_t a16 = (int16x8_t)a, b16 = (int16x8_t)b;
    return (ints)vpaddq_s32(vmull_s16(vget_low_s16(a16), vget_low_s16(b16)),
                            vmull_high_s16(a16, b16));
}

/* sum plus, in each lane, the products of four bytes. */
INLINE ints dot_4(ints sum, bytes w, bytes x, int max_signed) {
    (void)max_signed;
    return (ints)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
}

/* In each lane, the products of four bytes of two vectors each. */
INLINE ints dot_8(const bytes w[2], const bytes x[2], bool is_signed, int max_quant) {
    const int max_signed = is_signed ? max_quant : 0;
    return dot_4(dot_4((ints){0}, w[0], x[0], max_signed), w[1], x[1], max_signed);
}

/* sum plus the products of four groups of four columns with 16 columns of a token. */
INLINE ints dot_16(ints sum, const bytes w[4], int8x16_t x) {
    sum = (ints)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w[0], x, 0);
    sum = (ints)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w[1], x, 1);
    sum = (ints)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w[2], x, 2);
    return (ints)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w[3], x, 3);
}

/* sum[p][t] += the products of groups [g0, g1) of panel p of n_panels, of four columns, with token
 * t, whose 32 columns are at q + 32 * t. The groups make whole halves of the columns. */
INLINE void add_products(ints sum[PANELS][TILE], const bytes *const w[PANELS], int n_panels, int g0,
                         int g1, const int8_t *q, int n_tokens, bool is_signed, int max_quant) {
    (void)is_signed;
    (void)max_quant; /* 32 bits hold any sum */
    for (int g = g0; g < g1; g += 4) {
        for (int t = 0; t < n_tokens; t++) {
            const int8x16_t x = vld1q_s8(q + 32 * t + 4 * g);
            for (int p = 0; p < n_panels; p++) {
                sum[p][t] = dot_16(sum[p][t], w[p] + g, x);
            }
        }
    }
}

#endif
