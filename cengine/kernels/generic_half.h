/* Half precision in plain C: exact, with subnormals, infinities and NaNs. A NaN keeps its payload
 * and becomes quiet, as the F16C instructions do it. */
#ifndef CE_GENERIC_HALF_H
#define CE_GENERIC_HALF_H

#include <stdint.h>
#include <string.h>

static inline float float_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t bits_from_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Elements of a row at any address. */
static inline uint16_t load_u16(const void *row, int64_t i) {
    uint16_t v;
    memcpy(&v, (const char *)row + 2 * i, sizeof v);
    return v;
}

static inline float f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    const uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13; /* exponent and mantissa, in place */
    const uint32_t exponent = magnitude >> 23;
    uint32_t bits;
    if (exponent == 0) { /* zero or subnormal: magnitude counts units of 2^-24 (times 2^13) */
        bits = bits_from_float((float)(magnitude >> 13) * 0x1p-24f);
    } else if (exponent < 31) {
        bits = magnitude + ((127 - 15) << 23);
    } else {
        const uint32_t quiet = (magnitude & 0x007fffff) != 0 ? 0x00400000 : 0;
        bits = (magnitude & 0x007fffff) | 0x7f800000 | quiet;
    }
    return float_from_bits(sign | bits);
}

/* Rounds to nearest, ties to even. */
static inline uint16_t f32_to_f16(float f) {
    const uint32_t bits = bits_from_float(f);
    const uint32_t sign = (bits >> 16) & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    uint32_t h;
    if (magnitude > 0x7f800000) {
        h = 0x7e00 | ((magnitude >> 13) & 0x3ff); /* NaN */
    } else if (magnitude >= 0x477ff000) {
        h = 0x7c00; /* 65520 and more, which round to infinity */
    } else if (magnitude < 0x38800000) {
        /* Below 2^-14. Units of 2^-24 are the last place of 0.5: the addition rounds. */
        h = bits_from_float(float_from_bits(magnitude) + 0.5f) - bits_from_float(0.5f);
    } else {
        const uint32_t odd = (magnitude >> 13) & 1;
        h = (magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13;
    }
    return (uint16_t)(sign | h);
}

static inline float bf16_to_f32(uint16_t h) { return float_from_bits((uint32_t)h << 16); }

static inline float load_f32(const void *row, int64_t i) {
    float v;
    memcpy(&v, (const char *)row + 4 * i, sizeof v);
    return v;
}

static inline float load_f16(const void *row, int64_t i) { return f16_to_f32(load_u16(row, i)); }

static inline float load_bf16(const void *row, int64_t i) { return bf16_to_f32(load_u16(row, i)); }

#endif
