/* What all kernels are written with. */
#ifndef CE_INLINE_H
#define CE_INLINE_H

/* For functions that take functions, or numbers that are constants, as arguments: they are always
 * inlined, so that nothing is called through a pointer and the constants fold. */
#define INLINE static inline __attribute__((always_inline))

INLINE int min_int(int a, int b) { return a < b ? a : b; }
INLINE int max_int(int a, int b) { return a > b ? a : b; }

#endif
