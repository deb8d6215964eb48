/* The block types, unpacked 32 columns at a time to one common form. It is all that dequantization
 * and the generic matmuls need to know of a type. */
#ifndef CE_GENERIC_BLOCKS_H
#define CE_GENERIC_BLOCKS_H

#include "blocks.h"
#include "generic_half.h"

/* w[i] = (scale * mult[i / 16]) * q[i] - min * min_mult[i / 16] */
typedef struct {
    float scale;
    float min;
    int mult[2];
    int min_mult[2];
    int8_t q[CE_QK];
} columns32;

/* Columns 32 b ... 32 b + 31 of a row. */
typedef void unpack_fn(columns32 *out, const void *row, int64_t b);

static inline void unpack_q4_0(columns32 *out, const void *row, int64_t b) {
    const ce_block_q4_0 *block = (const ce_block_q4_0 *)row + b;
    *out = (columns32){.scale = f16_to_f32(block->d), .mult = {1, 1}};
    for (int i = 0; i < 16; i++) {
        out->q[i] = (int8_t)((block->qs[i] & 15) - 8);
        out->q[16 + i] = (int8_t)((block->qs[i] >> 4) - 8);
    }
}

static inline void unpack_q4_1(columns32 *out, const void *row, int64_t b) {
    const ce_block_q4_1 *block = (const ce_block_q4_1 *)row + b;
    *out = (columns32){.scale = f16_to_f32(block->d),
                       .min = -f16_to_f32(block->m),
                       .mult = {1, 1},
                       .min_mult = {1, 1}};
    for (int i = 0; i < 16; i++) {
        out->q[i] = (int8_t)(block->qs[i] & 15);
        out->q[16 + i] = (int8_t)(block->qs[i] >> 4);
    }
}

static inline void unpack_5_bits(int8_t q[CE_QK], const uint8_t qs[CE_QK / 2], uint32_t qh) {
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((qs[i] & 15) | ((qh >> i) & 1) << 4);
        q[16 + i] = (int8_t)(qs[i] >> 4 | ((qh >> (16 + i)) & 1) << 4);
    }
}

static inline void unpack_q5_0(columns32 *out, const void *row, int64_t b) {
    const ce_block_q5_0 *block = (const ce_block_q5_0 *)row + b;
    *out = (columns32){.scale = f16_to_f32(block->d), .mult = {1, 1}};
    unpack_5_bits(out->q, block->qs, block->qh);
    for (int i = 0; i < CE_QK; i++) {
        out->q[i] -= 16;
    }
}

static inline void unpack_q5_1(columns32 *out, const void *row, int64_t b) {
    const ce_block_q5_1 *block = (const ce_block_q5_1 *)row + b;
    *out = (columns32){.scale = f16_to_f32(block->d),
                       .min = -f16_to_f32(block->m),
                       .mult = {1, 1},
                       .min_mult = {1, 1}};
    unpack_5_bits(out->q, block->qs, block->qh);
}

static inline void unpack_q8_0(columns32 *out, const void *row, int64_t b) {
    const ce_block_q8_0 *block = (const ce_block_q8_0 *)row + b;
    *out = (columns32){.scale = f16_to_f32(block->d), .mult = {1, 1}};
    memcpy(out->q, block->qs, sizeof out->q);
}

/* The two bits of columns i, 32 + i, 64 + i, 96 + i of each half are pairs of one byte. */
static inline int pair_of_bits(const uint8_t *qs, int sub, int i) {
    return (qs[32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3;
}

static inline void unpack_q2_K(columns32 *out, const void *row, int64_t b) {
    const ce_block_q2_K *block = (const ce_block_q2_K *)row + b / 8;
    const int sub = (int)(b % 8);
    const uint8_t *scales = block->scales + 2 * sub;
    *out = (columns32){.scale = f16_to_f32(block->d),
                       .min = f16_to_f32(block->dmin),
                       .mult = {scales[0] & 15, scales[1] & 15},
                       .min_mult = {scales[0] >> 4, scales[1] >> 4}};
    for (int i = 0; i < 32; i++) {
        out->q[i] = (int8_t)pair_of_bits(block->qs, sub, i);
    }
}

/* Scale j (0 ... 15). Of the 12 bytes, byte i holds the four low bits of scale[i] and, above them,
 * of scale[8 + i]; byte 8 + i the two high bits of scale[i], [4 + i], [8 + i] and [12 + i]. */
static inline int q3_K_scale(const uint8_t scales[12], int j) {
    const int low = (scales[j % 8] >> (4 * (j / 8))) & 15;
    const int high = (scales[8 + j % 4] >> (2 * (j / 4))) & 3;
    return (low | high << 4) - 32;
}

static inline void unpack_q3_K(columns32 *out, const void *row, int64_t b) {
    const ce_block_q3_K *block = (const ce_block_q3_K *)row + b / 8;
    const int sub = (int)(b % 8);
    *out = (columns32){
        .scale = f16_to_f32(block->d),
        .mult = {q3_K_scale(block->scales, 2 * sub), q3_K_scale(block->scales, 2 * sub + 1)}};
    for (int i = 0; i < 32; i++) {
        const int high = (block->hmask[i] >> sub) & 1;
        out->q[i] = (int8_t)((pair_of_bits(block->qs, sub, i) | high << 2) - 4);
    }
}

/* Scale and min of sub-block b (0 ... 7). The 12 bytes hold, for j = 0 ... 3:
 *   byte j:     scale[j], and above it the two high bits of scale[4 + j]
 *   byte 4 + j: min[j], and above it the two high bits of min[4 + j]
 *   byte 8 + j: the four low bits of scale[4 + j], and above them those of min[4 + j] */
static inline void unpack_scale_min(int *scale, int *min, const uint8_t scales[12], int b) {
    const int j = b % 4;
    if (b < 4) {
        *scale = scales[j] & 63;
        *min = scales[4 + j] & 63;
    } else {
        *scale = (scales[8 + j] & 15) | ((scales[j] >> 2) & 0x30);
        *min = (scales[8 + j] >> 4) | ((scales[4 + j] >> 2) & 0x30);
    }
}

static inline void unpack_q4_K(columns32 *out, const void *row, int64_t b) {
    const ce_block_q4_K *block = (const ce_block_q4_K *)row + b / 8;
    const int sub = (int)(b % 8);
    int scale, min;
    unpack_scale_min(&scale, &min, block->scales, sub);
    *out = (columns32){.scale = f16_to_f32(block->d) * (float)scale,
                       .min = f16_to_f32(block->dmin) * (float)min,
                       .mult = {1, 1},
                       .min_mult = {1, 1}};
    for (int i = 0; i < 32; i++) {
        out->q[i] = (int8_t)((block->qs[32 * (sub / 2) + i] >> (4 * (sub % 2))) & 15);
    }
}

static inline void unpack_q5_K(columns32 *out, const void *row, int64_t b) {
    const ce_block_q5_K *block = (const ce_block_q5_K *)row + b / 8;
    const int sub = (int)(b % 8);
    int scale, min;
    unpack_scale_min(&scale, &min, block->scales, sub);
    *out = (columns32){.scale = f16_to_f32(block->d) * (float)scale,
                       .min = f16_to_f32(block->dmin) * (float)min,
                       .mult = {1, 1},
                       .min_mult = {1, 1}};
    for (int i = 0; i < 32; i++) {
        const int low = (block->qs[32 * (sub / 2) + i] >> (4 * (sub % 2))) & 15;
        const int high = (block->qh[i] >> sub) & 1;
        out->q[i] = (int8_t)(low | high << 4);
    }
}

static inline void unpack_q6_K(columns32 *out, const void *row, int64_t b) {
    const ce_block_q6_K *block = (const ce_block_q6_K *)row + b / 8;
    const int sub = (int)(b % 8), half = sub / 4, quarter = sub % 4;
    const uint8_t *ql = block->ql + 64 * half + 32 * (quarter % 2);
    const uint8_t *qh = block->qh + 32 * half;
    *out = (columns32){.scale = f16_to_f32(block->d),
                       .mult = {block->scales[2 * sub], block->scales[2 * sub + 1]}};
    for (int i = 0; i < 32; i++) {
        const int low = (ql[i] >> (4 * (quarter / 2))) & 15;
        const int high = (qh[i] >> (2 * quarter)) & 3;
        out->q[i] = (int8_t)((low | high << 4) - 32);
    }
}

#endif
