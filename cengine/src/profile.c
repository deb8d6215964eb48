#include "profile.h"

#include "cpu.h"

static const char *const names[CE_N_OPS] = {
    [CE_OP_EMBED] = "embedding",
    [CE_OP_NORM] = "norms",
    [CE_OP_QKV] = "q, k, v",
    [CE_OP_ATTENTION] = "attention",
    [CE_OP_ATTN_OUTPUT] = "attention output",
    [CE_OP_ROUTER] = "router",
    [CE_OP_GATE_UP] = "gate, up, SiLU",
    [CE_OP_DOWN] = "down",
    [CE_OP_HEAD] = "head",
};

const char *ce_op_name(int32_t op) { return op >= 0 && op < CE_N_OPS ? names[op] : NULL; }

double ce_engine_op_seconds(const ce_engine *engine, int32_t op, int32_t phase) {
    return ce_op_name(op) != NULL && phase >= 0 && phase < CE_N_PHASES
               ? 1e-9 * (double)engine->op_nanoseconds[phase][op]
               : 0;
}

void ce_start_clock(ce_pass *pass) { pass->clock = ce_nanoseconds(); }

void ce_clock(ce_pass *pass, ce_op op) {
    const int64_t now = ce_nanoseconds();
    atomic_fetch_add_explicit(&pass->engine->op_nanoseconds[pass->phase][op], now - pass->clock,
                              memory_order_relaxed);
    pass->clock = now;
}
