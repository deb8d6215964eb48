/* The small operations in AVX2: activations to int8, KV precision and back, RMSNorm, SiLU. */
#include "avx2.h"
#include "avx2_load.h"
#include "blocks.h"

#include "lanes_ops.h"

#include <float.h>

/* ---- Activations to int8: the formula of quantize_block in generic_ops.c ---- */

static inline int32_t max_lanes_i32(__m256i v) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

static inline int32_t sum_lanes_i32(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* The largest bit pattern of |x|: NaNs are above infinity, and that above all numbers. */
static inline int32_t max_magnitude(const __m256 x[4]) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
    }
    return max_lanes_i32(m);
}

/* The 32 integers of four vectors as bytes, in order. */
static inline __m256i pack_bytes(const __m256i v[4]) {
    const __m256i low = _mm256_packs_epi32(v[0], v[1]), high = _mm256_packs_epi32(v[2], v[3]);
    const __m256i by_half = _mm256_packs_epi16(low, high);
    return _mm256_permutevar8x32_epi32(by_half, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static void quantize_block(int8_t *q, float *scale, ce_act_sums *sums, const float *p) {
    __m256 x[4];
    for (int i = 0; i < 4; i++) {
        x[i] = _mm256_loadu_ps(p + 8 * i);
    }
    const int32_t amax_bits = max_magnitude(x);
    float amax;
    memcpy(&amax, &amax_bits, sizeof amax);
    const float inverse = 127.0f / amax;
    __m256i v[4] = {0};
    if (amax_bits >= 0x7f800000) {
        *scale = NAN;
    } else if (inverse > FLT_MAX) {
        *scale = 0.0f;
    } else {
        *scale = amax / 127.0f;
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], _mm256_set1_ps(inverse)));
        }
    }
    const int32_t low = sum_lanes_i32(_mm256_add_epi32(v[0], v[1]));
    const int32_t high = sum_lanes_i32(_mm256_add_epi32(v[2], v[3]));
    *sums = ce_act_sums_of(low, high, *scale);
    _mm256_storeu_si256((__m256i *)q, pack_bytes(v));
}

static void quantize_act(int8_t *q, float *scale, ce_act_sums *sums, const float *x, int n) {
    for (int b = 0; b < n / CE_ACT_BLOCK; b++) {
        quantize_block(q + CE_ACT_BLOCK * b, scale + b, sums + b, x + CE_ACT_BLOCK * b);
    }
}

/* ---- The others ---- */

static void row_f32_to_f16(uint16_t *dst, const float *src, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        const __m256 v = _mm256_loadu_ps(src + i);
        _mm_storeu_si128((__m128i *)(dst + i), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < n; i++) {
        dst[i] = _cvtss_sh(src[i], _MM_FROUND_TO_NEAREST_INT);
    }
}

static void row_f16_to_f32(float *dst, const void *src, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const __m128i v = _mm_loadu_si128((const __m128i *)((const char *)src + 2 * i));
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(v));
    }
    for (; i < n; i++) {
        uint16_t half;
        memcpy(&half, (const char *)src + 2 * i, sizeof half);
        dst[i] = _cvtsh_ss(half);
    }
}

static void row_q8_0_to_f32(float *dst, const void *src, int64_t n) {
    const ce_block_q8_0 *block = src;
    for (int64_t i = 0; i < n; i += CE_QK, block++) {
        const __m256 d = _mm256_set1_ps(_cvtsh_ss(block->d));
        for (int j = 0; j < CE_QK; j += LANES) {
            const __m256i q =
                _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(block->qs + j)));
            _mm256_storeu_ps(dst + i + j, _mm256_mul_ps(_mm256_cvtepi32_ps(q), d));
        }
    }
}

void ce_avx2_ops(ce_kernels *k) {
    k->quantize_act = quantize_act;
    k->f32_to_f16 = row_f32_to_f16;
    k->dequantize[CE_TYPE_F16] = row_f16_to_f32;
    k->dequantize[CE_TYPE_Q8_0] = row_q8_0_to_f32;
    k->rmsnorm = rmsnorm;
    k->silu_mul = silu_mul;
}
