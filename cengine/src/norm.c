#include "norm.h"

#include "matmul.h"

typedef struct {
    const ce_pass *pass;
    const float *add;
    const float *weight;
} norm_loop;

static void norm_chunk(void *ctx, int64_t row, int thread) {
    (void)thread;
    const norm_loop *loop = ctx;
    const ce_engine *engine = loop->pass->engine;
    ce_scratch *s = &loop->pass->engine->scratch;
    const int dim = engine->model.hp.dim;
    float *x = s->x + row * dim;
    for (int i = 0; loop->add != NULL && i < dim; i++)
        x[i] += loop->add[row * dim + i];
    engine->kernels.rmsnorm(s->norm.f32 + row * dim, x, loop->weight, dim,
                            engine->model.hp.norm_eps);
    ce_quantize_row(loop->pass, &s->norm, row);
}

bool ce_norm_rows(const ce_pass *pass, const float *add, const float *weight) {
    norm_loop loop = {.pass = pass, .add = add, .weight = weight};
    return ce_pass_run(pass, pass->n_rows, norm_chunk, &loop);
}
