/* One mutable timeline: how far it has come, and its keys and values. */
#ifndef CE_SESSION_H
#define CE_SESSION_H

#include "engine.h"

struct ce_session {
    ce_engine *engine;
    int n_ctx;
    int length; /* positions [0, length) are valid */
    int kv_type;
    size_t row_bytes; /* one position of one KV head: head_dim elements */
    uint8_t *kv;      /* [n_layers][2: keys, values][n_kv_heads][n_ctx][row_bytes] */
    atomic_int cancel;
    atomic_flag busy; /* held by who reads or writes length or kv */
};

enum { CE_KEYS = 0, CE_VALUES = 1 };

/* The n_ctx rows of one layer's keys or values of one KV head. */
uint8_t *ce_session_kv(const ce_session *s, int layer, int which, int kv_head);

#endif
