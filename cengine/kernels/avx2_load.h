/* Eight elements as float lanes, from any address; a tail is not read past. */
#ifndef CE_AVX2_LOAD_H
#define CE_AVX2_LOAD_H

#include <stdint.h>
#include <string.h>

#include "avx2_lanes.h"

INLINE __m128i load_8_halves(const void *row, int i) {
    return _mm_loadu_si128((const __m128i *)((const char *)row + 2 * (size_t)i));
}

INLINE __m128i load_n_halves(const void *row, int i, int n) {
    uint16_t v[LANES] = {0};
    memcpy(v, (const char *)row + 2 * (size_t)i, (size_t)n * sizeof *v);
    return _mm_loadu_si128((const __m128i *)v);
}

INLINE lanes widen_bf16(__m128i v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

INLINE lanes load_f32(const void *row, int i) { return load((const float *)row + i); }

INLINE lanes load_tail_f32(const void *row, int i, int n) {
    return load_first((const float *)row + i, n);
}

INLINE lanes load_f16(const void *row, int i) { return _mm256_cvtph_ps(load_8_halves(row, i)); }

INLINE lanes load_tail_f16(const void *row, int i, int n) {
    return _mm256_cvtph_ps(load_n_halves(row, i, n));
}

INLINE lanes splat_half(uint16_t h) { return _mm256_cvtph_ps(_mm_set1_epi16((short)h)); }

INLINE lanes load_int8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

INLINE lanes load_bf16(const void *row, int i) { return widen_bf16(load_8_halves(row, i)); }

INLINE lanes load_tail_bf16(const void *row, int i, int n) {
    return widen_bf16(load_n_halves(row, i, n));
}

#endif
