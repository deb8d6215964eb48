/* Sixteen sub-blocks at a time, transposed: in a tile, lane j of x[c] is column c of sub-block j.
 */
#ifndef CE_QUANTIZE_TILE_H
#define CE_QUANTIZE_TILE_H

#include <string.h>

#include "blocks.h"
#include "generic_half.h"
#include "lanes.h"

enum { N_SUB = 16, N_TILES = N_SUB / LANES, MAX_COLUMNS = 32 };

typedef struct {
    lanes x[MAX_COLUMNS];
    lanes w[MAX_COLUMNS]; /* how much an error of this value matters, at least 0 */
} tile;

typedef struct {
    int n_columns; /* of a sub-block */
    int n_sub;     /* sub-blocks of a block */
    tile tiles[N_TILES];
} unit;

/* The weights that make an error matter. */
typedef struct {
    /* Without an importance: |x| + rms * root mean square of the sub-block. */
    float rms;
    /* With one: importance * sqrt(spread * mean square of the block + x^2), or the importance alone
     * where `spread` is negative. */
    float spread;
} weighting;

INLINE float lane_of(const lanes *v, int sub) { return v[sub / LANES][sub % LANES]; }

INLINE void weigh_by_magnitude(tile *t, int n_columns, float rms) {
    lanes squares = splat(0);
    for (int c = 0; c < n_columns; c++) {
        squares += t->x[c] * t->x[c];
    }
    const lanes floor = rms * lanes_sqrt(squares / (float)n_columns);
    for (int c = 0; c < n_columns; c++) {
        t->w[c] = lanes_abs(t->x[c]) + floor;
    }
}

/* Sums of a block's sub-blocks, in each of their lanes. */
INLINE void sum_over_blocks(lanes v[N_TILES], int n_sub) {
    float sums[N_SUB];
    for (int first = 0; first < N_SUB; first += n_sub) {
        float sum = 0;
        for (int j = 0; j < n_sub; j++) {
            sum += lane_of(v, first + j);
        }
        for (int j = first; j < first + n_sub; j++) {
            sums[j] = sum;
        }
    }
    memcpy(v, sums, sizeof sums);
}

INLINE void weigh_by_importance(unit *u, float spread) {
    lanes squares[N_TILES];
    for (int i = 0; i < N_TILES; i++) {
        squares[i] = splat(0);
        for (int c = 0; c < u->n_columns; c++) {
            squares[i] += u->tiles[i].x[c] * u->tiles[i].x[c];
        }
    }
    sum_over_blocks(squares, u->n_sub);
    const float factor = spread / (float)(u->n_sub * u->n_columns);
    for (int i = 0; i < N_TILES; i++) {
        tile *t = &u->tiles[i];
        for (int c = 0; c < u->n_columns; c++) {
            t->w[c] *= lanes_sqrt(squares[i] * factor + t->x[c] * t->x[c]);
        }
    }
}

/* Loads blocks first ... of a run of n_blocks. Where the run ends before the unit does, the last
 * block is repeated. importance: [n_columns of a row], or NULL; rows are whole blocks. */
INLINE void load_unit(unit *u, int n_columns, int n_sub, const float *x, const float *importance,
                      int64_t row_columns, int64_t first, int64_t n_blocks, weighting by) {
    const int block_columns = n_columns * n_sub;
    u->n_columns = n_columns;
    u->n_sub = n_sub;
    for (int j = 0; j < N_SUB; j++) {
        const int64_t wanted = first + j / n_sub;
        const int64_t block = wanted < n_blocks ? wanted : n_blocks - 1;
        const int64_t at = block * block_columns + j % n_sub * n_columns;
        tile *t = &u->tiles[j / LANES];
        for (int c = 0; c < n_columns; c++) {
            ((float *)&t->x[c])[j % LANES] = x[at + c];
        }
        if (importance != NULL) {
            for (int c = 0; c < n_columns; c++) {
                ((float *)&t->w[c])[j % LANES] = importance[at % row_columns + c];
            }
        }
    }
    if (importance == NULL) {
        for (int i = 0; i < N_TILES; i++) {
            weigh_by_magnitude(&u->tiles[i], n_columns, by.rms);
        }
    } else if (by.spread >= 0) {
        weigh_by_importance(u, by.spread);
    }
}

#endif
