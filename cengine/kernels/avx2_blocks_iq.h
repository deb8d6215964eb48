/* The IQ types in AVX2 registers, as in avx2_blocks.h. */
#ifndef CE_AVX2_BLOCKS_IQ_H
#define CE_AVX2_BLOCKS_IQ_H

#include "avx2_blocks.h"
#include "avx2_points.h"

/* ---- Quants ---- */

static inline __m256i iq4_numbers(__m256i nibble) {
    const __m128i numbers = _mm_loadu_si128((const __m128i *)ce_iq4_numbers);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(numbers), nibble);
}

static inline __m256i quants_iq4_nl(const uint8_t *block, int sub) {
    (void)sub;
    return iq4_numbers(low_then_high(((const ce_block_iq4_nl *)block)->qs));
}

static inline __m256i quants_iq4_xs(const uint8_t *block, int sub) {
    return iq4_numbers(low_then_high(((const ce_block_iq4_xs *)block)->qs + 16 * sub));
}

/* Points with their signs. */
#define DEFINE_SIGNED_QUANTS(type)                                                                 \
    static inline __m256i quants_##type(const uint8_t *block, int sub) {                           \
        const __m256i negative = bytes_of_bits(signs_##type(block, sub));                          \
        return _mm256_sub_epi8(_mm256_xor_si256(points_##type(block, sub), negative), negative);   \
    }

DEFINE_SIGNED_QUANTS(iq3_xxs)
DEFINE_SIGNED_QUANTS(iq3_s)
DEFINE_SIGNED_QUANTS(iq2_xxs)
DEFINE_SIGNED_QUANTS(iq2_xs)
DEFINE_SIGNED_QUANTS(iq2_s)

enum { IQ1_OFFSET = 9 };

static inline __m256i quants_iq1_s(const uint8_t *block, int sub) {
    const int down = ((const ce_block_iq1_s *)block)->qh[sub] >> 15;
    return _mm256_add_epi8(points_iq1_s(block, sub),
                           _mm256_set1_epi8((char)(IQ1_OFFSET + 1 - 2 * down)));
}

static inline __m256i quants_iq1_m(const uint8_t *block, int sub) {
    const __m256i nibble = _mm256_set1_epi16((short)nibbles_iq1_m(block, sub));
    const __m256i top = _mm256_setr_epi64x(0x0008000800080008, 0x0080008000800080,
                                           0x0800080008000800, (int64_t)0x8000800080008000);
    const __m256i down = _mm256_cmpeq_epi16(_mm256_and_si256(nibble, top), top);
    const __m256i up = _mm256_add_epi8(points_iq1_m(block, sub), _mm256_set1_epi8(IQ1_OFFSET + 1));
    return _mm256_sub_epi8(up, _mm256_and_si256(down, _mm256_set1_epi8(2)));
}

/* ---- Scales ---- */

static inline void scales_iq4_nl(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_iq4_nl), false);
}

static inline void scales_iq4_xs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m256i word = word_of_rows(row, 0); /* d and scales_h */
    const __m256i low = word_of_rows(row, offsetof(ce_block_iq4_xs, scales_l));
    const __m256 d = half_in_lane(word);
    for (int b = 0; b < SPAN; b++) {
        const __m256i high = _mm256_slli_epi32(field(word, 16 + 2 * b, 2), 4);
        const __m256i scale =
            _mm256_sub_epi32(_mm256_or_si256(field(low, 4 * b, 4), high), _mm256_set1_epi32(32));
        _mm256_storeu_ps(s->scale[b], _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale)));
    }
}

/* 2 * v + 1 */
static inline __m256 odd(__m256i v) {
    return _mm256_cvtepi32_ps(_mm256_or_si256(_mm256_slli_epi32(v, 1), _mm256_set1_epi32(1)));
}

static inline __m256 d_times(float unit, const uint8_t *const row[ROWS], size_t at) {
    return _mm256_mul_ps(half_of_rows(row, at), _mm256_set1_ps(unit));
}

static inline void scales_iq3_xxs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m256 d = d_times(0.25f, row, 0);
    for (int b = 0; b < SPAN; b++) {
        const __m256i word = word_of_rows(row, offsetof(ce_block_iq3_xxs, signs) + 4 * b);
        _mm256_storeu_ps(s->scale[b], _mm256_mul_ps(d, odd(field(word, 28, 4))));
    }
}

static inline void scales_iq3_s(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m256 d = half_of_rows(row, 0);
    const __m256i word = word_of_rows(row, offsetof(ce_block_iq3_s, scales));
    for (int b = 0; b < SPAN; b++) {
        _mm256_storeu_ps(s->scale[b], _mm256_mul_ps(d, odd(field(word, 4 * b, 4))));
    }
}

static inline void scales_iq2_xxs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m256 d = d_times(0.125f, row, 0);
    for (int b = 0; b < SPAN; b++) {
        const __m256i word = word_of_rows(row, offsetof(ce_block_iq2_xxs, sub[0].signs) + 8 * b);
        _mm256_storeu_ps(s->scale[b], _mm256_mul_ps(d, odd(field(word, 28, 4))));
    }
}

/* Sixteen nibbles at row[i] + at: scales of 16 columns. */
static inline void scales_of_nibbles(row_scales *s, const uint8_t *const row[ROWS], size_t at) {
    const __m256 d = d_times(0.125f, row, 0);
    const __m256i word[2] = {word_of_rows(row, at), word_of_rows(row, at + 4)};
    for (int b = 0; b < SPAN; b++) {
        _mm256_storeu_ps(s->scale[b], d);
        for (int h = 0; h < 2; h++) {
            const __m256i nibble = field(word[b / 4], 8 * (b % 4) + 4 * h, 4);
            _mm256_storeu_ps(s->mult[b][h], odd(nibble));
        }
    }
}

static inline void scales_iq2_xs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    scales_of_nibbles(s, row, offsetof(ce_block_iq2_xs, scales));
}

static inline void scales_iq2_s(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    scales_of_nibbles(s, row, offsetof(ce_block_iq2_s, scales));
}

static inline void scales_iq1_s(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m256 d = d_times(0.125f, row, 0);
    for (int b = 0; b < SPAN; b += 2) {
        const __m256i qh = word_of_rows(row, offsetof(ce_block_iq1_s, qh) + 2 * b);
        _mm256_storeu_ps(s->scale[b], _mm256_mul_ps(d, odd(field(qh, 12, 3))));
        _mm256_storeu_ps(s->scale[b + 1], _mm256_mul_ps(d, odd(field(qh, 28, 3))));
    }
}

static inline void scales_iq1_m(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const size_t at = offsetof(ce_block_iq1_m, scales);
    const __m256i word[2] = {word_of_rows(row, at), word_of_rows(row, at + 4)};
    __m256i d = _mm256_setzero_si256();
    for (int j = 0; j < 4; j++) {
        const __m256i nibble = field(word[j / 2], 16 * (j % 2) + 12, 4);
        d = _mm256_or_si256(d, _mm256_slli_epi32(nibble, 4 * j));
    }
    const __m256 scale = _mm256_mul_ps(half_in_lane(d), _mm256_set1_ps(0.125f));
    for (int b = 0; b < SPAN; b++) {
        _mm256_storeu_ps(s->scale[b], scale);
        for (int h = 0; h < 2; h++) {
            const __m256i three = field(word[b / 4], 16 * (b / 2 % 2) + 6 * (b % 2) + 3 * h, 3);
            _mm256_storeu_ps(s->mult[b][h], odd(three));
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
