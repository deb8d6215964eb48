/* Matrix products, several in one parallel loop. */
#ifndef CE_MATMUL_H
#define CE_MATMUL_H

#include "engine.h"

/* y[t][r] = w[r] . x[t], or, where gated, silu(w[r] . x[t]) * (up[r] . x[t]). */
typedef struct {
    ce_matrix w;
    ce_matrix up; /* the shape of w; read only if gated */
    bool gated;
    ce_acts x; /* [n_tokens][w.n_cols] */
    int n_tokens;
    float *y; /* [n_tokens][w.n_rows] */
} ce_matmul_job;

enum { CE_MAX_JOBS = CE_MAX_EXPERTS };

/* Runs up to CE_MAX_JOBS jobs; false when cancelled. Either each has an input of its own, or, of
 * CE_SHARED_INPUT_JOBS at most, all have one of dim columns. */
bool ce_matmul(const ce_pass *pass, const ce_matmul_job *jobs, int n_jobs);

/* Whether any kernel of this phase reads the int8 form of `a`. */
bool ce_reads_int8(const ce_pass *pass, const ce_act_rows *a);

/* Quantizes rows [0, n_rows) of `a` from their floats, if they are read; false when cancelled. */
bool ce_quantize_rows(const ce_pass *pass, ce_act_rows *a, int n_rows);

/* The same for one row, inside a chunk of another loop. */
void ce_quantize_row(const ce_pass *pass, ce_act_rows *a, int64_t row);

#endif
