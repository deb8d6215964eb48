#include "weights.h"

ce_matrix ce_weight_matrix(const ce_weight *weight, int mat) {
    return (ce_matrix){
        .type = weight->type,
        .n_rows = weight->n_rows,
        .n_cols = weight->n_cols,
        .row_bytes = weight->row_bytes,
        .data = weight->data + (uint64_t)mat * (uint64_t)weight->n_rows * weight->row_bytes,
    };
}

const uint8_t *ce_matrix_row(const ce_matrix *m, int row) {
    return m->data + (uint64_t)row * m->row_bytes;
}
