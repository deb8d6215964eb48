/* AMX attention of prompts over a KV cache in f16 or q8_0.
 *
 * Scaled queries, keys, values and weights are rounded to bf16; scores, softmax and sums are
 * float32. Keys are the left operand of the scores, and come with a query a lane, as
 * lanes_softmax.h wants them; the values' columns are the left operand of the sums. Tiles of 256
 * positions are packed once for all queries of a call. */
#include <string.h>

#include "amx.h"
#include "amx_tiles.h"
#include "avx512vnni_lanes.h"
#include "lanes_softmax.h"

enum { TILE = CE_ATTN_WIDE_TILE, PAIR = 2 * TILE_SIDE, TILE_ELEMENTS = TILE_BYTES / 2 };

_Static_assert((int)BLOCK == (int)PAIR, "a block of queries is two tiles wide");

/* Columns are head_dim, rounded up to whole tiles with zeros. */
typedef struct {
    int columns;
    uint16_t *keys;    /* [TILE][columns] */
    uint16_t *values;  /* [columns][TILE] */
    uint16_t *q;       /* [n_blocks][columns / 32][2] tiles */
    uint16_t *weights; /* [TILE / 32][2] tiles */
    float *key_rows;   /* [PAIR][columns], on their way to keys */
    float *value_rows; /* likewise */
    float *score;      /* [TILE][BLOCK] */
    float *sums;       /* [n_blocks][columns][BLOCK] */
    query_block *block;
} workspace;

static workspace lay_out(const ce_queries *a) {
    const int columns = round_up(a->head_dim, TILE_COLS), n_blocks = count_blocks(a);
    char *scratch = a->scratch;
    return (workspace){
        .columns = columns,
        .keys = take_bytes(&scratch, (size_t)TILE * columns * sizeof(uint16_t)),
        .values = take_bytes(&scratch, (size_t)TILE * columns * sizeof(uint16_t)),
        .q = take_bytes(&scratch, (size_t)n_blocks * BLOCK * columns * sizeof(uint16_t)),
        .weights = take_bytes(&scratch, (size_t)TILE * BLOCK * sizeof(uint16_t)),
        .key_rows = take_floats(&scratch, PAIR, columns),
        .value_rows = take_floats(&scratch, PAIR, columns),
        .score = take_floats(&scratch, TILE, BLOCK),
        .sums = take_floats(&scratch, n_blocks * BLOCK, columns),
        .block = take_bytes(&scratch, (size_t)n_blocks * sizeof(query_block)),
    };
}

/* ---- Packing ---- */

/* Pairs of bf16: low[i] beside high[i]. */
INLINE __m512i interleave(lanes low, lanes high) {
    const __m512i halves = _mm512_setr_epi32(
        0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008,
        0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
    return _mm512_permutexvar_epi16(halves, to_bf16(low, high));
}

/* The PAIR positions from p on; zeros for those that are not asked for. */
static void widen_rows(const workspace *w, const ce_queries *a, int p) {
    for (int j = 0; j < PAIR; j++) {
        float *key = w->key_rows + j * w->columns, *value = w->value_rows + j * w->columns;
        const bool wanted = a->begin <= p + j && p + j < a->end;
        const int n_columns = wanted ? a->head_dim : 0;
        if (wanted) {
            widen_pair(key, value, a, p + j);
        }
        memset(key + n_columns, 0, (size_t)(w->columns - n_columns) * sizeof *key);
        memset(value + n_columns, 0, (size_t)(w->columns - n_columns) * sizeof *value);
    }
}

static void pack_keys(uint16_t *to, const float *rows, int columns) {
    for (int c = 0; c < PAIR * columns; c += TILE_COLS) {
        _mm512_storeu_si512(to + c, to_bf16(load(rows + c), load(rows + c + LANES)));
    }
}

static void pack_values(uint16_t *to, const float *rows, int columns) {
    for (int c = 0; c < columns; c += TILE_SIDE) {
        tile_rows v;
        for (int j = 0; j < TILE_SIDE; j++) {
            const float *at = rows + 2 * j * columns + c;
            v[j] = interleave(load(at), load(at + columns));
        }
        transpose_tile(v);
        for (int i = 0; i < TILE_SIDE; i++) {
            _mm512_storeu_si512(to + (size_t)(c + i) * TILE, v[i]);
        }
    }
}

/* n positions from p0 on, p0 being a multiple of TILE whatever `begin` is: how the sums are grouped
 * must not depend on it. */
static void pack_positions(const workspace *w, const ce_queries *a, int p0, int n) {
    for (int p = 0; p < n; p += PAIR) {
        widen_rows(w, a, p0 + p);
        pack_keys(w->keys + (size_t)p * w->columns, w->key_rows, w->columns);
        pack_values(w->values + p, w->value_rows, w->columns);
    }
}

/* Sixteen of a row's columns, scaled; zeros beyond head_dim. */
INLINE lanes load_columns(const ce_queries *a, const float *q, int c) {
    const int n = max_int(0, min_int(LANES, a->head_dim - c));
    return multiply(load_first(q + c, n), splat(a->scale));
}

static void pack_queries(uint16_t *to, const ce_queries *a, int first, int columns) {
    for (int c = 0; c < columns; c += TILE_COLS) {
        for (int i = 0; i < BLOCK; i += TILE_SIDE) {
            tile_rows v;
            for (int j = 0; j < TILE_SIDE; j++) {
                const int query = min_int(first + i + j, count_queries(a) - 1);
                const float *q = a->q + query_offset(a, query);
                v[j] = to_bf16(load_columns(a, q, c), load_columns(a, q, c + LANES));
            }
            transpose_tile(v);
            memcpy(to, v, TILE_BYTES);
            to += TILE_ELEMENTS;
        }
    }
}

/* Of n positions; those up to a multiple of PAIR get weight 0. */
static void pack_weights(const workspace *w, int n) {
    const int whole = round_up(n, PAIR);
    memset(w->score + n * BLOCK, 0, (size_t)(whole - n) * BLOCK * sizeof *w->score);
    uint16_t *to = w->weights;
    for (int p = 0; p < whole; p += PAIR) {
        for (int i = 0; i < BLOCK; i += TILE_SIDE) {
            for (int j = 0; j < TILE_SIDE; j++) {
                const float *at = w->score + (p + 2 * j) * BLOCK + i;
                _mm512_storeu_si512(to, interleave(load(at), load(at + BLOCK)));
                to += TILE_COLS;
            }
        }
    }
}

/* ---- Products ---- */

/* A tile of rows from `left` on times two tiles of a block, over n columns, in four tile registers
 * (docs/decisions/0013). To [TILE_SIDE][BLOCK]. */
static void multiply_tiles(float *to, const uint16_t *left, int left_columns, const uint16_t *right,
                           int n) {
    const size_t left_bytes = (size_t)left_columns * sizeof *left, row_bytes = BLOCK * sizeof *to;
    TILE_ZERO(0);
    TILE_ZERO(1);
    for (int c = 0; c < n; c += TILE_COLS) {
        TILE_LOAD_ROWS(2, left + c, left_bytes);
        TILE_LOAD(3, right);
        TILE_MULTIPLY_BF16(0, 2, 3);
        TILE_LOAD(3, right + TILE_ELEMENTS);
        TILE_MULTIPLY_BF16(1, 2, 3);
        right += 2 * TILE_ELEMENTS;
    }
    TILE_STORE_ROWS(to, 0, row_bytes);
    TILE_STORE_ROWS(to + TILE_SIDE, 1, row_bytes);
}

static void score_block(const workspace *w, const uint16_t *q, int n) {
    for (int p = 0; p < n; p += TILE_SIDE) {
        const uint16_t *keys = w->keys + (size_t)p * w->columns;
        multiply_tiles(w->score + p * BLOCK, keys, w->columns, q, w->columns);
    }
}

/* sums = sums * shrink + values * weights */
static void add_block(const workspace *w, float *sums, const float *shrink, int n) {
    const lanes shrink0 = load(shrink), shrink1 = load(shrink + LANES);
    for (int c = 0; c < w->columns; c += TILE_SIDE) {
        float product[TILE_SIDE * BLOCK];
        multiply_tiles(product, w->values + (size_t)c * TILE, TILE, w->weights, n);
        for (int i = 0; i < TILE_SIDE; i++) {
            float *to = sums + (c + i) * BLOCK;
            store(to, fma_lanes(load(to), shrink0, load(product + i * BLOCK)));
            store(to + LANES,
                  fma_lanes(load(to + LANES), shrink1, load(product + i * BLOCK + LANES)));
        }
    }
}

/* ---- The kernel ---- */

static void attend(const ce_queries *a) {
    const workspace w = lay_out(a);
    const int n_blocks = count_blocks(a);
    const size_t block_size = (size_t)w.columns * BLOCK;
    tiles_configure();
    memset(w.sums, 0, n_blocks * block_size * sizeof *w.sums);
    for (int b = 0; b < n_blocks; b++) {
        start_block(&w.block[b], a, b * BLOCK);
        pack_queries(w.q + b * block_size, a, b * BLOCK, w.columns);
    }
    for (int p0 = a->begin / TILE * TILE; p0 < a->end; p0 += TILE) {
        const int n = min_int(TILE, a->end - p0);
        pack_positions(&w, a, p0, n);
        for (int b = 0; b < n_blocks; b++) {
            const int n_seen = count_seen(&w.block[b], p0, n);
            if (n_seen <= 0) {
                continue;
            }
            float shrink[BLOCK];
            score_block(&w, w.q + b * block_size, n_seen);
            weigh_block(w.score, &w.block[b], p0, n_seen, shrink);
            pack_weights(&w, n_seen);
            add_block(&w, w.sums + b * block_size, shrink, n_seen);
        }
    }
    tiles_release();
    for (int b = 0; b < n_blocks; b++) {
        finish_block(a, &w.block[b], w.sums + b * block_size, b * BLOCK);
    }
}

void ce_amx_attention(ce_kernels *k) {
    k->attend[CE_PHASE_PROMPT][CE_TYPE_F16] = attend;
    k->attend[CE_PHASE_PROMPT][CE_TYPE_Q8_0] = attend;
}
