/* Where a weight's bytes are. */
#ifndef CE_WEIGHTS_H
#define CE_WEIGHTS_H

#include <stdint.h>

#include "cengine.h"

/* One tensor: n_mats matrices (1, or one per expert) of n_rows rows. */
typedef struct {
    int type; /* ce_type */
    int n_mats;
    int n_rows;
    int n_cols;
    uint64_t row_bytes;
    const uint8_t *data;
} ce_weight;

/* One matrix of it, ready to be multiplied with. */
typedef struct {
    int type;
    int n_rows;
    int n_cols;
    uint64_t row_bytes;
    const uint8_t *data; /* [n_rows][row_bytes] */
} ce_matrix;

/* The one door to the bytes of weights. Today they are all mapped or in memory, as the file has
 * them; repacked layouts and experts that are paged in belong behind this function. */
ce_matrix ce_weight_matrix(const ce_weight *weight, int mat);

const uint8_t *ce_matrix_row(const ce_matrix *m, int row);

#endif
