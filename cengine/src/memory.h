/* The one place where the engine allocates, and the checked arithmetic that sizes what it asks
 * for. */
#ifndef CE_MEMORY_H
#define CE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Cache-line aligned, not cleared; NULL if there is not enough memory. Size 0 gives a block. */
void *ce_alloc(uint64_t n_bytes);
void *ce_alloc_zeroed(uint64_t n_bytes);
/* For what is read from end to end again and again: in huge pages, where the system has them. */
void *ce_alloc_large(uint64_t n_bytes);
void ce_free(void *p);

/* a * b and a + b that stick at UINT64_MAX instead of wrapping: an allocation of that size fails,
 * so that sums and products can be chained and checked once, by ce_alloc. */
uint64_t ce_mul(uint64_t a, uint64_t b);
uint64_t ce_add(uint64_t a, uint64_t b);

/* A region that several arrays are carved from, so that there is one size to estimate, one
 * allocation to check and one block to free. Carve twice through the same code: first with base
 * NULL to learn the size, then with the block. */
typedef struct {
    uint8_t *base;
    uint64_t used;
} ce_arena;

/* The next n elements of `size` bytes, cache-line aligned; NULL while measuring. */
void *ce_arena_take(ce_arena *arena, uint64_t n, uint64_t size);

#endif
