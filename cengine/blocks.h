/* Quantized blocks as they lie in GGUF files (ggml's field names and sizes). The structs are packed
 * because a file may put a tensor at any address. `d`, `m`, `dmin` are IEEE half floats. */
#ifndef CE_BLOCKS_H
#define CE_BLOCKS_H

#include <stdint.h>

enum {
    CE_QK = 32,   /* columns of a small block, and of a sub-block of the large ones */
    CE_QK_K = 256 /* columns of a K or IQ block */
};

#pragma pack(push, 1)

/* w = d * (q - 8); column i is the low nibble of qs[i], column 16 + i its high nibble. */
typedef struct {
    uint16_t d;
    uint8_t qs[CE_QK / 2];
} ce_block_q4_0;

/* w = d * q + m */
typedef struct {
    uint16_t d;
    uint16_t m;
    uint8_t qs[CE_QK / 2];
} ce_block_q4_1;

/* w = d * (q - 16): like q4_0, with a fifth bit: bit i of qh belongs to column i. */
typedef struct {
    uint16_t d;
    uint32_t qh;
    uint8_t qs[CE_QK / 2];
} ce_block_q5_0;

/* w = d * q + m */
typedef struct {
    uint16_t d;
    uint16_t m;
    uint32_t qh;
    uint8_t qs[CE_QK / 2];
} ce_block_q5_1;

/* w = d * q */
typedef struct {
    uint16_t d;
    int8_t qs[CE_QK];
} ce_block_q8_0;

/* w = (d * scale) * q - dmin * min: for each 16 columns a byte of scale (low nibble) and min. Each
 * half of 128 columns has 32 bytes of qs (two bits for each of columns i, 32 + i, 64 + i, 96 + i).
 */
typedef struct {
    uint8_t scales[CE_QK_K / 16];
    uint8_t qs[CE_QK_K / 4];
    uint16_t d;
    uint16_t dmin;
} ce_block_q2_K;

/* w = d * (scale - 32) * (q - 4), with a 6-bit scale per 16 columns. The low two bits of q are as
 * in q2_K; bit b of hmask[i] is the third, of column i of sub-block b. */
typedef struct {
    uint8_t hmask[CE_QK_K / 8];
    uint8_t qs[CE_QK_K / 4];
    uint8_t scales[12];
    uint16_t d;
} ce_block_q3_K;

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

/* ---- IQ types: q is a number of a table, or points of a grid (grids.h) ---- */

/* w = d * number[q], nibbles as in q4_0 */
typedef struct {
    uint16_t d;
    uint8_t qs[CE_QK / 2];
} ce_block_iq4_nl;

/* w = d * (scale - 32) * number[q], with 16 bytes of nibbles per sub-block. The scale's four low
 * bits are nibble b of scales_l, its high ones the pair b of scales_h. */
typedef struct {
    uint16_t d;
    uint16_t scales_h;
    uint8_t scales_l[CE_QK_K / 64];
    uint8_t qs[CE_QK_K / 2];
} ce_block_iq4_xs;

/* w = d / 4 * (2 * scale + 1) * +-point, 8 points of 4 columns per sub-block; in signs[b] four
 * indices of signs, 7 bits each, and above them the scale. */
typedef struct {
    uint16_t d;
    uint8_t qs[CE_QK_K / 4];
    uint32_t signs[CE_QK_K / 32];
} ce_block_iq3_xxs;

/* w = d * (2 * scale + 1) * +-point. Bit j of qh[b] is the high bit of index j of sub-block b; a
 * sign bit per column; a nibble of scale per sub-block. */
typedef struct {
    uint16_t d;
    uint8_t qs[CE_QK_K / 4];
    uint8_t qh[CE_QK_K / 32];
    uint8_t signs[CE_QK_K / 8];
    uint8_t scales[CE_QK_K / 64];
} ce_block_iq3_s;

/* w = d / 8 * (2 * scale + 1) * +-point, 4 points of 8 columns per sub-block; signs as in iq3_xxs.
 */
typedef struct {
    uint16_t d;
    struct {
        uint8_t qs[4];
        uint32_t signs;
    } sub[CE_QK_K / 32];
} ce_block_iq2_xxs;

/* The same, with the signs' index above 9 bits of the point's, and a nibble of scale per 16
 * columns.
 */
typedef struct {
    uint16_t d;
    uint16_t qs[CE_QK_K / 8];
    uint8_t scales[CE_QK_K / 32];
} ce_block_iq2_xs;

/* The same, with two high bits of each index in qh, and a sign bit per column. */
typedef struct {
    uint16_t d;
    uint8_t qs[CE_QK_K / 8];
    uint8_t signs[CE_QK_K / 8];
    uint8_t qh[CE_QK_K / 32];
    uint8_t scales[CE_QK_K / 32];
} ce_block_iq2_s;

/* w = d * (2 * scale + 1) * (point +- 1/8), 4 points of 8 columns per sub-block. In qh[b] the three
 * high bits of each index, above them the scale (3 bits), and a 1 on top for -1/8. */
typedef struct {
    uint16_t d;
    uint8_t qs[CE_QK_K / 8];
    uint16_t qh[CE_QK_K / 32];
} ce_block_iq1_s;

/* The same, with a nibble of qh per point: three high bits of the index, and a 1 on top for -1/8.
 * scales[j] holds the 3-bit scales of columns 64 j ... 64 j + 63, 16 each, and above them the j-th
 * nibble of d, the lowest first. */
typedef struct {
    uint8_t qs[CE_QK_K / 8];
    uint8_t qh[CE_QK_K / 16];
    uint16_t scales[CE_QK_K / 64];
} ce_block_iq1_m;

#pragma pack(pop)

_Static_assert(sizeof(ce_block_q4_0) == 18, "q4_0 block");
_Static_assert(sizeof(ce_block_q4_1) == 20, "q4_1 block");
_Static_assert(sizeof(ce_block_q5_0) == 22, "q5_0 block");
_Static_assert(sizeof(ce_block_q5_1) == 24, "q5_1 block");
_Static_assert(sizeof(ce_block_q8_0) == 34, "q8_0 block");
_Static_assert(sizeof(ce_block_q2_K) == 84, "q2_K block");
_Static_assert(sizeof(ce_block_q3_K) == 110, "q3_K block");
_Static_assert(sizeof(ce_block_q4_K) == 144, "q4_K block");
_Static_assert(sizeof(ce_block_q5_K) == 176, "q5_K block");
_Static_assert(sizeof(ce_block_q6_K) == 210, "q6_K block");
_Static_assert(sizeof(ce_block_iq4_nl) == 18, "iq4_nl block");
_Static_assert(sizeof(ce_block_iq4_xs) == 136, "iq4_xs block");
_Static_assert(sizeof(ce_block_iq3_xxs) == 98, "iq3_xxs block");
_Static_assert(sizeof(ce_block_iq3_s) == 110, "iq3_s block");
_Static_assert(sizeof(ce_block_iq2_xxs) == 66, "iq2_xxs block");
_Static_assert(sizeof(ce_block_iq2_xs) == 74, "iq2_xs block");
_Static_assert(sizeof(ce_block_iq2_s) == 82, "iq2_s block");
_Static_assert(sizeof(ce_block_iq1_s) == 50, "iq1_s block");
_Static_assert(sizeof(ce_block_iq1_m) == 56, "iq1_m block");

#endif
