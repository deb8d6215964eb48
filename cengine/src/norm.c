#include "norm.h"

#include "matmul.h"

typedef struct {
    const ce_pass *pass;
    const float *add;
    const float *weight;
} norm_loop;

void ce_norm_row(const ce_pass *pass, int64_t from, int64_t to, const float *weight) {
    const ce_engine *engine = pass->engine;
    const int dim = engine->model.hp.dim;
    ce_scratch *s = &pass->engine->scratch;
    engine->kernels.rmsnorm(s->norm.f32 + to * dim, s->x + from * dim, weight, dim,
                            engine->model.hp.norm_eps);
    ce_quantize_row(pass, &s->norm, to);
}

static void norm_chunk(void *ctx, int64_t row, int thread) {
    (void)thread;
    const norm_loop *loop = ctx;
    const int dim = loop->pass->engine->model.hp.dim;
    float *x = loop->pass->engine->scratch.x + row * dim;
    for (int i = 0; loop->add != NULL && i < dim; i++)
        x[i] += loop->add[row * dim + i];
    ce_norm_row(loop->pass, row, row, loop->weight);
}

bool ce_norm_rows(const ce_pass *pass, const float *add, const float *weight) {
    norm_loop loop = {.pass = pass, .add = add, .weight = weight};
    return ce_pass_run(pass, pass->n_rows, norm_chunk, &loop);
}
