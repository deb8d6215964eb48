/* The repacked layout of a block type: sixteen rows side by side, in the bytes of sixteen rows.
 *
 * Over a span of 256 columns, a row of a type is so many halves of 16 bits (half floats, as a rule)
 * and then so many words of 32, taken from its blocks field by field. In a group of sixteen rows a
 * span has the first half of all rows, then the second ..., then the first word of all rows, then
 * the second ...: a vector of words has four columns (or eight, where they are nibbles) of each row
 * in the row's lane, and whoever multiplies reads one stream of memory from its beginning to its
 * end. Where the halves of a span fill no whole cache lines, those of two spans come first and the
 * words of both after them (a last span without a second stands alone), so that no vector of words
 * lies across two lines.
 */
#ifndef CE_REPACK_H
#define CE_REPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Files keep weights in this layout: whatever changes a byte of it, or which types have it, changes
 * its number. */
enum { CE_REPACK_VERSION = 2 };

enum {
    CE_REPACK_ROWS = 16,
    CE_REPACK_COLS = 256,
    CE_MAX_REPACK_FIELDS = 4,
    CE_REPACK_ALIGNMENT = 64 /* of where it begins in memory: a cache line */
};

/* n halves or words, from byte `at` of a block on. */
typedef struct {
    size_t at;
    int n;
} ce_repack_field;

typedef struct {
    int block_cols;
    size_t block_bytes;
    ce_repack_field halves;
    ce_repack_field words[CE_MAX_REPACK_FIELDS]; /* as many as have an n */
} ce_repack_layout;

/* How many spans have their halves together, where a row's span has n_halves: see above. */
static inline int ce_repack_paired_spans(int n_halves) {
    const size_t cache_line = 64;
    return (size_t)n_halves * CE_REPACK_ROWS * sizeof(uint16_t) % cache_line == 0 ? 1 : 2;
}

/* NULL for the types that have none. */
const ce_repack_layout *ce_repack_layout_of(int type);

/* Whether matrices of this type and size can lie so. */
bool ce_can_repack(int type, int64_t n_rows, int64_t n_cols);

/* Sixteen rows of n_cols, a multiple of CE_REPACK_COLS, row_bytes apart, to 16 * row_bytes bytes at
 * dst. */
void ce_repack_group(const ce_repack_layout *layout, void *dst, const void *src, size_t row_bytes,
                     int n_cols);

#endif
