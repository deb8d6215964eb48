#include "weights.h"

#include <stddef.h>

ce_matrix ce_weight_matrix(const ce_weight *weight, int mat) { return weight->mats[mat]; }

const uint8_t *ce_matrix_row(const ce_matrix *m, int row) {
    return (m->repacked != NULL ? m->repacked : m->data) + (uint64_t)row * m->row_bytes;
}
