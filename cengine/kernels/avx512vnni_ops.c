/* The types of the KV cache to floats in AVX-512. */
#include "avx512vnni.h"
#include "avx512vnni_lanes.h"
#include "blocks.h"

static void row_f16_to_f32(float *dst, const void *src, int64_t n) {
    const char *halves = src;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(halves + 2 * i));
        store(dst + i, _mm512_cvtph_ps(v));
    }
    const int rest = (int)(n - i);
    const __m256i v = _mm256_maskz_loadu_epi16(first_lanes(rest), halves + 2 * i);
    store_first(dst + i, _mm512_cvtph_ps(v), rest);
}

static void row_q8_0_to_f32(float *dst, const void *src, int64_t n) {
    const ce_block_q8_0 *block = src;
    for (int64_t i = 0; i < n; i += CE_QK, block++) {
        const lanes d = _mm512_cvtph_ps(_mm256_set1_epi16((short)block->d));
        for (int j = 0; j < CE_QK; j += LANES) {
            const __m128i q = _mm_loadu_si128((const __m128i *)(block->qs + j));
            store(dst + i + j, multiply(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), d));
        }
    }
}

void ce_avx512vnni_ops(ce_kernels *k) {
    k->dequantize[CE_TYPE_F16] = row_f16_to_f32;
    k->dequantize[CE_TYPE_Q8_0] = row_q8_0_to_f32;
}
