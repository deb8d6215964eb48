/* The IQ types in AVX-512 registers, as in avx512vnni_blocks.h. */
#ifndef CE_AVX512VNNI_BLOCKS_IQ_H
#define CE_AVX512VNNI_BLOCKS_IQ_H

#include "avx2_points.h"
#include "avx512vnni_blocks.h"

/* ---- Quants ---- */

enum { SIGNED_OFFSET = 128, IQ1_OFFSET = 9 };

static inline __m512i join(__m256i a, __m256i b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

/* Signed bytes, and 128. */
static inline __m512i add_128(__m512i v) {
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)SIGNED_OFFSET));
}

static inline __m512i iq4_numbers(__m512i nibble) {
    const __m128i numbers = _mm_loadu_si128((const __m128i *)ce_iq4_numbers);
    return add_128(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(numbers), nibble));
}

static inline __m512i quants_iq4_nl(const uint8_t *a, const uint8_t *b, int sub) {
    (void)sub;
    return iq4_numbers(
        low_then_high(((const ce_block_iq4_nl *)a)->qs, ((const ce_block_iq4_nl *)b)->qs));
}

static inline __m512i quants_iq4_xs(const uint8_t *a, const uint8_t *b, int sub) {
    return iq4_numbers(low_then_high(((const ce_block_iq4_xs *)a)->qs + 16 * sub,
                                     ((const ce_block_iq4_xs *)b)->qs + 16 * sub));
}

/* Points with their signs. */
#define DEFINE_SIGNED_QUANTS(type)                                                                 \
    static inline __m512i quants_##type(const uint8_t *a, const uint8_t *b, int sub) {             \
        const __m512i points = join(points_##type(a, sub), points_##type(b, sub));                 \
        const __mmask64 negative = mask_of_pair(signs_##type(a, sub), signs_##type(b, sub));       \
        return add_128(_mm512_mask_sub_epi8(points, negative, _mm512_setzero_si512(), points));    \
    }

DEFINE_SIGNED_QUANTS(iq3_xxs)
DEFINE_SIGNED_QUANTS(iq3_s)
DEFINE_SIGNED_QUANTS(iq2_xxs)
DEFINE_SIGNED_QUANTS(iq2_xs)
DEFINE_SIGNED_QUANTS(iq2_s)

/* Eighths of iq1: points and 1, with the offset, less 2 where `down` is all ones. */
static inline __m512i shifted(__m512i points, __m512i down) {
    const __m512i up = _mm512_add_epi8(points, _mm512_set1_epi8(IQ1_OFFSET + 1));
    return _mm512_sub_epi8(up, _mm512_and_si512(down, _mm512_set1_epi8(2)));
}

static inline __m512i quants_iq1_s(const uint8_t *a, const uint8_t *b, int sub) {
    const __m256i qa = _mm256_set1_epi16((short)((const ce_block_iq1_s *)a)->qh[sub]);
    const __m256i qb = _mm256_set1_epi16((short)((const ce_block_iq1_s *)b)->qh[sub]);
    return shifted(join(points_iq1_s(a, sub), points_iq1_s(b, sub)),
                   _mm512_srai_epi16(join(qa, qb), 15));
}

static inline __m512i quants_iq1_m(const uint8_t *a, const uint8_t *b, int sub) {
    const __m256i na = _mm256_set1_epi16((short)nibbles_iq1_m(a, sub));
    const __m256i nb = _mm256_set1_epi16((short)nibbles_iq1_m(b, sub));
    /* The top bit of nibble i, to the top of the words of point i. */
    const __m256i shift =
        _mm256_setr_epi64x(0x000c000c000c000c, 0x0008000800080008, 0x0004000400040004, 0);
    const __m512i top = _mm512_sllv_epi16(join(na, nb), join(shift, shift));
    return shifted(join(points_iq1_m(a, sub), points_iq1_m(b, sub)), _mm512_srai_epi16(top, 15));
}

/* ---- Scales ---- */

static inline void scales_iq4_nl(row_scales *s, const uint8_t *const row[ROWS], int n) {
    scales_of_blocks(s, row, n, sizeof(ce_block_iq4_nl), false);
}

static inline void scales_iq4_xs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m512i word = word_of_rows(row, 0); /* d and scales_h */
    const __m512i low = word_of_rows(row, offsetof(ce_block_iq4_xs, scales_l));
    const __m512 d = half_in_lane(word);
    for (int b = 0; b < SPAN; b++) {
        const __m512i high = _mm512_slli_epi32(field(word, 16 + 2 * b, 2), 4);
        const __m512i scale =
            _mm512_sub_epi32(_mm512_or_si512(field(low, 4 * b, 4), high), _mm512_set1_epi32(32));
        _mm512_storeu_ps(s->scale[b], _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)));
    }
}

/* 2 * v + 1 */
static inline __m512 odd(__m512i v) {
    return _mm512_cvtepi32_ps(_mm512_or_si512(_mm512_slli_epi32(v, 1), _mm512_set1_epi32(1)));
}

static inline __m512 d_times(float unit, const uint8_t *const row[ROWS], size_t at) {
    return _mm512_mul_ps(half_of_rows(row, at), _mm512_set1_ps(unit));
}

static inline void scales_iq3_xxs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m512 d = d_times(0.25f, row, 0);
    for (int b = 0; b < SPAN; b++) {
        const __m512i word = word_of_rows(row, offsetof(ce_block_iq3_xxs, signs) + 4 * b);
        _mm512_storeu_ps(s->scale[b], _mm512_mul_ps(d, odd(field(word, 28, 4))));
    }
}

static inline void scales_iq3_s(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m512 d = half_of_rows(row, 0);
    const __m512i word = word_of_rows(row, offsetof(ce_block_iq3_s, scales));
    for (int b = 0; b < SPAN; b++) {
        _mm512_storeu_ps(s->scale[b], _mm512_mul_ps(d, odd(field(word, 4 * b, 4))));
    }
}

static inline void scales_iq2_xxs(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const __m512 d = d_times(0.125f, row, 0);
    for (int b = 0; b < SPAN; b++) {
        const __m512i word = word_of_rows(row, offsetof(ce_block_iq2_xxs, sub[0].signs) + 8 * b);
        _mm512_storeu_ps(s->scale[b], _mm512_mul_ps(d, odd(field(word, 28, 4))));
    }
}

/* Sixteen nibbles at row[i] + at: scales of 16 columns. */
static inline void scales_of_nibbles(row_scales *s, const uint8_t *const row[ROWS], size_t at) {
    const __m512 d = d_times(0.125f, row, 0);
    const __m512i word[2] = {word_of_rows(row, at), word_of_rows(row, at + 4)};
    for (int b = 0; b < SPAN; b++) {
        _mm512_storeu_ps(s->scale[b], d);
        for (int h = 0; h < 2; h++) {
            const __m512i nibble = field(word[b / 4], 8 * (b % 4) + 4 * h, 4);
            _mm512_storeu_ps(s->mult[b][h], odd(nibble));
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
    const __m512 d = d_times(0.125f, row, 0);
    for (int b = 0; b < SPAN; b += 2) {
        const __m512i qh = word_of_rows(row, offsetof(ce_block_iq1_s, qh) + 2 * b);
        _mm512_storeu_ps(s->scale[b], _mm512_mul_ps(d, odd(field(qh, 12, 3))));
        _mm512_storeu_ps(s->scale[b + 1], _mm512_mul_ps(d, odd(field(qh, 28, 3))));
    }
}

static inline void scales_iq1_m(row_scales *s, const uint8_t *const row[ROWS], int n) {
    (void)n;
    const size_t at = offsetof(ce_block_iq1_m, scales);
    const __m512i word[2] = {word_of_rows(row, at), word_of_rows(row, at + 4)};
    __m512i d = _mm512_setzero_si512();
    for (int j = 0; j < 4; j++) {
        const __m512i nibble = field(word[j / 2], 16 * (j % 2) + 12, 4);
        d = _mm512_or_si512(d, _mm512_slli_epi32(nibble, 4 * j));
    }
    const __m512 scale = _mm512_mul_ps(half_in_lane(d), _mm512_set1_ps(0.125f));
    for (int b = 0; b < SPAN; b++) {
        _mm512_storeu_ps(s->scale[b], scale);
        for (int h = 0; h < 2; h++) {
            const __m512i three = field(word[b / 4], 16 * (b / 2 % 2) + 6 * (b % 2) + 3 * h, 3);
            _mm512_storeu_ps(s->mult[b][h], odd(three));
        }
    }
}

/* ---- The table ---- */

static const block_format format_iq4_nl = {.block_bytes = sizeof(ce_block_iq4_nl),
                                           .sub_blocks = 1,
                                           .offset = SIGNED_OFFSET,
                                           .quants = quants_iq4_nl,
                                           .scales = scales_iq4_nl};

static const block_format format_iq4_xs = {.block_bytes = sizeof(ce_block_iq4_xs),
                                           .sub_blocks = 8,
                                           .offset = SIGNED_OFFSET,
                                           .quants = quants_iq4_xs,
                                           .scales = scales_iq4_xs};

static const block_format format_iq3_xxs = {.block_bytes = sizeof(ce_block_iq3_xxs),
                                            .sub_blocks = 8,
                                            .offset = SIGNED_OFFSET,
                                            .quants = quants_iq3_xxs,
                                            .scales = scales_iq3_xxs};

static const block_format format_iq3_s = {.block_bytes = sizeof(ce_block_iq3_s),
                                          .sub_blocks = 8,
                                          .offset = SIGNED_OFFSET,
                                          .quants = quants_iq3_s,
                                          .scales = scales_iq3_s};

static const block_format format_iq2_xxs = {.block_bytes = sizeof(ce_block_iq2_xxs),
                                            .sub_blocks = 8,
                                            .offset = SIGNED_OFFSET,
                                            .quants = quants_iq2_xxs,
                                            .scales = scales_iq2_xxs};

static const block_format format_iq2_xs = {.block_bytes = sizeof(ce_block_iq2_xs),
                                           .sub_blocks = 8,
                                           .offset = SIGNED_OFFSET,
                                           .has_mult = true,
                                           .quants = quants_iq2_xs,
                                           .scales = scales_iq2_xs};

static const block_format format_iq2_s = {.block_bytes = sizeof(ce_block_iq2_s),
                                          .sub_blocks = 8,
                                          .offset = SIGNED_OFFSET,
                                          .has_mult = true,
                                          .quants = quants_iq2_s,
                                          .scales = scales_iq2_s};

static const block_format format_iq1_s = {.block_bytes = sizeof(ce_block_iq1_s),
                                          .sub_blocks = 8,
                                          .offset = IQ1_OFFSET,
                                          .quants = quants_iq1_s,
                                          .scales = scales_iq1_s};

static const block_format format_iq1_m = {.block_bytes = sizeof(ce_block_iq1_m),
                                          .sub_blocks = 8,
                                          .offset = IQ1_OFFSET,
                                          .has_mult = true,
                                          .quants = quants_iq1_m,
                                          .scales = scales_iq1_m};

#endif
