/* Sixteen elements as float lanes, from any address; a tail is not read past. */
#ifndef CE_AVX512VNNI_LOAD_H
#define CE_AVX512VNNI_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include "avx512vnni_lanes.h"

INLINE lanes load_f16(const void *row, int i) {
    return _mm512_cvtph_ps(
        _mm256_loadu_si256((const __m256i *)((const char *)row + 2 * (size_t)i)));
}

INLINE lanes load_tail_f16(const void *row, int i, int n) {
    return _mm512_cvtph_ps(
        _mm256_maskz_loadu_epi16(first_lanes(n), (const char *)row + 2 * (size_t)i));
}

INLINE lanes splat_half(uint16_t h) { return _mm512_cvtph_ps(_mm256_set1_epi16((short)h)); }

INLINE lanes load_int8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

#endif
