/* Quantized blocks as they lie in GGUF files (ggml's field names and sizes). The structs are packed
 * because a file may put a tensor at any address. `d`, `dmin` are IEEE half floats. */
#ifndef CE_BLOCKS_H
#define CE_BLOCKS_H

#include <stdint.h>

enum {
    CE_QK = 32,   /* columns of a q4_0 or q8_0 block, and of a sub-block that shares a scale */
    CE_QK_K = 256 /* columns of a K-quant block */
};

#pragma pack(push, 1)

/* w = d * (q - 8); column i is the low nibble of qs[i], column 16 + i its high nibble. */
typedef struct {
    uint16_t d;
    uint8_t qs[CE_QK / 2];
} ce_block_q4_0;

/* w = d * q */
typedef struct {
    uint16_t d;
    int8_t qs[CE_QK];
} ce_block_q8_0;

/* w = (d * scale) * q - dmin * min, with a 6-bit scale and a 6-bit min per 32 columns. Bytes
 * qs[32j ... 32j + 31] hold sub-block 2j in their low nibbles and 2j + 1 in their high ones. */
typedef struct {
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12];
    uint8_t qs[CE_QK_K / 2];
} ce_block_q4_K;

/* Like q4_K, with a fifth bit: bit b of qh[i] belongs to column i of sub-block b. */
typedef struct {
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12];
    uint8_t qh[CE_QK_K / 8];
    uint8_t qs[CE_QK_K / 2];
} ce_block_q5_K;

/* w = (d * scale) * (q - 32), with an 8-bit scale per 16 columns. Each half of 128 columns has 64
 * bytes of ql (low nibbles: its columns 0 ... 63, high ones: 64 ... 127) and 32 bytes of qh (two
 * bits for each of columns i, 32 + i, 64 + i, 96 + i). */
typedef struct {
    uint8_t ql[CE_QK_K / 2];
    uint8_t qh[CE_QK_K / 4];
    int8_t scales[CE_QK_K / 16];
    uint16_t d;
} ce_block_q6_K;

#pragma pack(pop)

_Static_assert(sizeof(ce_block_q4_0) == 18, "q4_0 block");
_Static_assert(sizeof(ce_block_q8_0) == 34, "q8_0 block");
_Static_assert(sizeof(ce_block_q4_K) == 144, "q4_K block");
_Static_assert(sizeof(ce_block_q5_K) == 176, "q5_K block");
_Static_assert(sizeof(ce_block_q6_K) == 210, "q6_K block");

#endif
