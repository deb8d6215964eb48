/* Products of the quants of avx2_rows.h, with vpmaddubsw. */
#ifndef CE_AVX2_PRODUCTS_H
#define CE_AVX2_PRODUCTS_H

#include "avx2_rows.h"

/* What one sweep keeps in registers: PANELS times ROWS rows, TILE tokens. Two panels share the
 * broadcasts of the activations, each an instruction of its own: the ports of the products do not
 * need that, but where another thread works on the same core, the front end does. The panels of
 * BLOCK_TILES sweeps lie in L1 together. */
enum { PANELS = 2, TILE = 4, BLOCK_TILES = 4 };

/* Up to so many tokens multiply weights sooner from registers than from panels: the file's rows,
 * and repacked ones. */
enum { ROW_STREAM_TOKENS = 1, REPACKED_STREAM_TOKENS = 2 };

/* What makes signed quants fit for dot_4: nothing. */
enum { SIGNED_OFFSET = 0 };

/* Sums of two products, in int16: w is unsigned, or |w| is and x takes its sign. -128 is fine: x is
 * at least -127, and 2 * 128 * 127 < 2^15. */
INLINE __m256i multiply(bytes w, bytes x, bool is_signed) {
    return is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w),
                                            _mm256_sign_epi8((__m256i)x, (__m256i)w))
                     : _mm256_maddubs_epi16((__m256i)w, (__m256i)x);
}

INLINE ints add_pairs(__m256i v) { return (ints)_mm256_madd_epi16(v, _mm256_set1_epi16(1)); }

/* sum plus, in each lane, the products of four bytes. max_signed: the largest |w|, or 0 if w is
 * unsigned. */
INLINE ints dot_4(ints sum, bytes w, bytes x, int max_signed) {
    if (0 < max_signed && max_signed < 128) { /* the |x| that many rows share are found once */
        return sum + add_pairs(_mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)x),
                                                    _mm256_sign_epi8((__m256i)w, (__m256i)x)));
    }
    return sum + add_pairs(multiply(w, x, max_signed > 0));
}

/* In each lane, the products of four bytes of two vectors each. */
INLINE ints dot_8(const bytes w[2], const bytes x[2], bool is_signed, int max_quant) {
    if (4 * 127 * max_quant <= INT16_MAX) {
        return add_pairs(
            _mm256_add_epi16(multiply(w[0], x[0], is_signed), multiply(w[1], x[1], is_signed)));
    }
    const int max_signed = is_signed ? max_quant : 0;
    return dot_4(dot_4((ints){0}, w[0], x[0], max_signed), w[1], x[1], max_signed);
}

/* a + b, here and now: gcc would make a tree of a sum of many, and have to spill its leaves. */
INLINE __m256i add_in_order(__m256i a, __m256i b) {
    __m256i sum = _mm256_add_epi16(a, b);
    __asm__("" : "+x"(sum));
    return sum;
}

/* sum[p][t] += the products of groups [g0, g1) of panel p of n_panels, of four columns, with token
 * t, whose 32 columns are at q + 32 * t. As many sums of pairs are added in int16 as can never
 * overflow. */
INLINE void add_products(ints sum[PANELS][TILE], const bytes *const w[PANELS], int n_panels, int g0,
                         int g1, const int8_t *q, int n_tokens, bool is_signed, int max_quant) {
    const int fit = 32767 / (2 * 127 * max_quant);
    for (int g = g0; g < g1; g += fit) {
        __m256i pairs[PANELS][TILE];
        for (int t = 0; t < n_tokens; t++) {
            const bytes x = broadcast_4(q + 32 * t + 4 * g);
            for (int p = 0; p < n_panels; p++) {
                pairs[p][t] = multiply(w[p][g], x, is_signed);
            }
        }
#pragma GCC unroll 8
        for (int k = g + 1; k < g + fit && k < g1; k++) {
            for (int t = 0; t < n_tokens; t++) {
                const bytes x = broadcast_4(q + 32 * t + 4 * k);
                for (int p = 0; p < n_panels; p++) {
                    pairs[p][t] = add_in_order(pairs[p][t], multiply(w[p][k], x, is_signed));
                }
            }
        }
        for (int t = 0; t < n_tokens; t++) {
            for (int p = 0; p < n_panels; p++) {
                sum[p][t] += add_pairs(pairs[p][t]);
            }
        }
    }
}

#include "plain_panels.h"

#endif
