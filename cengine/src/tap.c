#include "tap.h"

static void show(const ce_engine *engine, const ce_tap_event *event) {
    if (event->n_rows > 0)
        engine->tap(engine->tap_user, event);
}

void ce_tap_rows(const ce_pass *pass, ce_role role, int layer, const ce_act_rows *x) {
    const ce_engine *engine = pass->engine;
    if (engine->tap == NULL)
        return;
    show(engine, &(ce_tap_event){
                     .role = (int32_t)role,
                     .layer = layer,
                     .n_rows = pass->n_rows,
                     .n_cols = x->n_cols,
                     .x = x->f32,
                     .item = engine->scratch.item,
                     .position = engine->scratch.position,
                 });
}

void ce_tap_router(const ce_pass *pass, int layer) {
    const ce_engine *engine = pass->engine;
    if (engine->tap == NULL || engine->model.hp.n_experts == 0)
        return;
    const ce_scratch *s = &engine->scratch;
    const int n_used = engine->model.n_used;
    for (int row = 0; row < pass->n_rows; row++) {
        if (s->chosen[row * n_used] < 0)
            continue;
        show(engine, &(ce_tap_event){
                         .role = CE_FFN_GATE_INP,
                         .layer = layer,
                         .n_rows = 1,
                         .n_cols = s->norm.n_cols,
                         .x = s->norm.f32 + (int64_t)row * s->norm.n_cols,
                         .item = s->item + row,
                         .position = s->position + row,
                         .n_used = n_used,
                         .chosen = s->chosen + row * n_used,
                         .chosen_weight = s->chosen_weight + row * n_used,
                     });
    }
}

void ce_tap_experts(const ce_pass *pass, ce_role role, int layer, const ce_act_rows *x) {
    const ce_engine *engine = pass->engine;
    if (engine->tap == NULL)
        return;
    const ce_scratch *s = &engine->scratch;
    for (int e = 0; e < engine->model.n_experts; e++) {
        const int begin = s->expert_begin[e];
        show(engine, &(ce_tap_event){
                         .role = (int32_t)role,
                         .layer = layer,
                         .expert = e,
                         .n_rows = s->expert_begin[e + 1] - begin,
                         .n_cols = x->n_cols,
                         .x = x->f32 + (int64_t)begin * x->n_cols,
                         .item = s->pair_item + begin,
                         .position = s->pair_position + begin,
                     });
    }
}
