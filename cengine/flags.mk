# Compiler flags, read by the Makefile (as make) and by setup.py (as NAME = value lines).
# -ffp-contract=off: gcc in gnu mode and clang contract a * b + c to fma, which would make
# dequantization differ from ggml's formulas in the last bit.
# -g0: Python asks for debug information, which would double the compiler's work.
CFLAGS_COMMON = -std=c11 -O3 -g0 -ffp-contract=off -fno-math-errno -fvisibility=hidden -Wall -Wextra -Wshadow -Wvla -Werror=implicit-function-declaration -Werror=incompatible-pointer-types
CFLAGS_GENERIC =
CFLAGS_AVX2 = -mavx2 -mfma -mf16c
CFLAGS_AVXVNNI = -mavx2 -mfma -mf16c -mavxvnni
CFLAGS_AVX512VNNI = -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
CFLAGS_NEON = -march=armv8.2-a+dotprod
CFLAGS_I8MM = -march=armv8.2-a+dotprod+i8mm
CFLAGS_AMX = -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi -mavx512bf16
