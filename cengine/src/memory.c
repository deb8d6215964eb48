#include "memory.h"

#include <stdlib.h>
#include <string.h>

enum { LINE = 64 };

uint64_t ce_mul(uint64_t a, uint64_t b) {
    return b != 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

uint64_t ce_add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

static uint64_t round_to_line(uint64_t n_bytes) { return ce_add(n_bytes, LINE - 1) / LINE * LINE; }

void *ce_alloc(uint64_t n_bytes) {
    uint64_t size = round_to_line(n_bytes == 0 ? 1 : n_bytes);
    /* PTRDIFF_MAX is the largest object that C's pointer arithmetic can handle. */
    return size > (uint64_t)PTRDIFF_MAX ? NULL : aligned_alloc(LINE, (size_t)size);
}

void *ce_alloc_zeroed(uint64_t n_bytes) {
    void *p = ce_alloc(n_bytes);
    if (p != NULL)
        memset(p, 0, (size_t)n_bytes);
    return p;
}

void ce_free(void *p) { free(p); }

void *ce_arena_take(ce_arena *arena, uint64_t n, uint64_t size) {
    void *p = arena->base == NULL ? NULL : arena->base + arena->used;
    arena->used = ce_add(arena->used, round_to_line(ce_mul(n, size)));
    return p;
}
