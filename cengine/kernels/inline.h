/* For functions that take functions, or numbers that are constants, as arguments: they are always
 * inlined, so that nothing is called through a pointer and the constants fold. */
#ifndef CE_INLINE_H
#define CE_INLINE_H

#define INLINE static inline __attribute__((always_inline))

#endif
