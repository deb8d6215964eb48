#include "repack.h"

#include <string.h>

#include "blocks.h"
#include "cengine.h"

static const ce_repack_layout layouts[] = {
    [CE_TYPE_Q4_0] = {CE_QK,
                      sizeof(ce_block_q4_0),
                      {offsetof(ce_block_q4_0, d), 1},
                      {{offsetof(ce_block_q4_0, qs), 4}}},
    [CE_TYPE_Q8_0] = {CE_QK,
                      sizeof(ce_block_q8_0),
                      {offsetof(ce_block_q8_0, d), 1},
                      {{offsetof(ce_block_q8_0, qs), 8}}},
    [CE_TYPE_Q4_K] = {CE_QK_K,
                      sizeof(ce_block_q4_K),
                      {offsetof(ce_block_q4_K, d), 2},
                      {{offsetof(ce_block_q4_K, scales), 3}, {offsetof(ce_block_q4_K, qs), 32}}},
    [CE_TYPE_Q5_K] = {CE_QK_K,
                      sizeof(ce_block_q5_K),
                      {offsetof(ce_block_q5_K, d), 2},
                      {{offsetof(ce_block_q5_K, scales), 3},
                       {offsetof(ce_block_q5_K, qh), 8},
                       {offsetof(ce_block_q5_K, qs), 32}}},
    [CE_TYPE_Q6_K] = {CE_QK_K,
                      sizeof(ce_block_q6_K),
                      {offsetof(ce_block_q6_K, d), 1},
                      {{offsetof(ce_block_q6_K, scales), 4},
                       {offsetof(ce_block_q6_K, ql), 32},
                       {offsetof(ce_block_q6_K, qh), 16}}},
};

const ce_repack_layout *ce_repack_layout_of(int type) {
    const int n = (int)(sizeof layouts / sizeof layouts[0]);
    return type >= 0 && type < n && layouts[type].block_cols != 0 ? &layouts[type] : NULL;
}

/* `size` bytes of each row, the rows `stride` apart. */
static inline uint8_t *gather(uint8_t *dst, const uint8_t *src, size_t stride, size_t size) {
    for (int r = 0; r < CE_REPACK_ROWS; r++) {
        memcpy(dst, src + r * stride, size);
        dst += size;
    }
    return dst;
}

/* A field of all blocks of a span. */
static inline uint8_t *gather_field(uint8_t *dst, const ce_repack_layout *l, ce_repack_field field,
                                    const uint8_t *span, size_t row_bytes, size_t size) {
    for (int b = 0; b < CE_REPACK_COLS / l->block_cols; b++)
        for (int i = 0; i < field.n; i++)
            dst = gather(dst, span + (size_t)b * l->block_bytes + field.at + (size_t)i * size,
                         row_bytes, size);
    return dst;
}

void ce_repack_group(const ce_repack_layout *l, void *dst, const void *src, size_t row_bytes,
                     int n_cols) {
    const uint8_t *span = src;
    uint8_t *to = dst;
    for (int c = 0; c < n_cols; c += CE_REPACK_COLS) {
        to = gather_field(to, l, l->halves, span, row_bytes, sizeof(uint16_t));
        for (int i = 0; i < CE_MAX_REPACK_FIELDS && l->words[i].n > 0; i++)
            to = gather_field(to, l, l->words[i], span, row_bytes, sizeof(uint32_t));
        span += (size_t)(CE_REPACK_COLS / l->block_cols) * l->block_bytes;
    }
}
