/* Sixteen elements as float lanes, from any address; a tail is not read past. */
#ifndef CE_AVX512VNNI_LOAD_H
#define CE_AVX512VNNI_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include "avx512vnni_lanes.h"

INLINE __m256i load_16_halves(const void *row, int i) {
    return _mm256_loadu_si256((const __m256i *)((const char *)row + 2 * (size_t)i));
}

INLINE __m256i load_n_halves(const void *row, int i, int n) {
    return _mm256_maskz_loadu_epi16(first_lanes(n), (const char *)row + 2 * (size_t)i);
}

INLINE lanes widen_bf16(__m256i v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

INLINE lanes load_f32(const void *row, int i) { return load((const float *)row + i); }

INLINE lanes load_tail_f32(const void *row, int i, int n) {
    return load_first((const float *)row + i, n);
}

INLINE lanes load_f16(const void *row, int i) { return _mm512_cvtph_ps(load_16_halves(row, i)); }

INLINE lanes load_tail_f16(const void *row, int i, int n) {
    return _mm512_cvtph_ps(load_n_halves(row, i, n));
}

INLINE lanes load_bf16(const void *row, int i) { return widen_bf16(load_16_halves(row, i)); }

INLINE lanes load_tail_bf16(const void *row, int i, int n) {
    return widen_bf16(load_n_halves(row, i, n));
}

INLINE lanes splat_half(uint16_t h) { return _mm512_cvtph_ps(_mm256_set1_epi16((short)h)); }

INLINE lanes load_int8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

#endif
