/* Where a weight's bytes are. */
#ifndef CE_WEIGHTS_H
#define CE_WEIGHTS_H

#include <stdint.h>

#include "cengine.h"

/* One matrix, ready to be multiplied with. */
typedef struct {
    int type; /* ce_type */
    int n_rows;
    int n_cols;
    uint64_t row_bytes;
    const uint8_t *data;     /* [n_rows][row_bytes] */
    const uint8_t *repacked; /* as repack.h says, to be used instead; or NULL */
    uint8_t *own_copy;       /* that, where the engine has made it; or NULL */
} ce_matrix;

/* What a role has in a layer: one matrix, or one for each expert. They need not follow one another
 * in memory, nor have one type: files of December 2023 keep every expert in a tensor of its own. */
typedef struct {
    int n_mats;
    ce_matrix *mats; /* [n_mats] */
} ce_weight;

/* The one door to the bytes of weights. Today they are all mapped or in memory; experts that are
 * paged in belong behind this function. */
ce_matrix ce_weight_matrix(const ce_weight *weight, int mat);

/* From there on, rows lie as the file or the repacked copy has them; of the latter, a row that
 * begins a group. */
const uint8_t *ce_matrix_row(const ce_matrix *m, int row);

#endif
