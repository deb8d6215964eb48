/* What the machine offers: the only place that asks it. */
#ifndef CE_CPU_H
#define CE_CPU_H

#include <stdbool.h>
#include <stdint.h>

/* Whether the CPU has a tier's instructions, and the operating system saves their registers. */
bool ce_cpu_has_generic(void);
bool ce_cpu_has_avx2(void);
bool ce_cpu_has_avxvnni(void);
bool ce_cpu_has_avx512vnni(void);
/* Asks the operating system for the permission to use tiles, for the whole process. */
bool ce_cpu_has_amx(void);
bool ce_cpu_has_neon(void);
bool ce_cpu_has_i8mm(void);

/* A clock that only goes forwards. */
int64_t ce_nanoseconds(void);

#endif
