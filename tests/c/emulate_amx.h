/* The tile instructions of AMX on a CPU that has none: an illegal instruction is decoded and
 * carried out, after Intel's SDM (volume 2 for each, volume 1 chapter 18 for the tiles). Slow, but
 * what the compiler made of the kernels is checked as it is. The kernels' other instructions must
 * be there. */
#ifndef EMULATE_AMX_H
#define EMULATE_AMX_H

#if defined(__x86_64__)

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, TILE_MAX_ROWS = 16, TILE_MAX_BYTES = 64 };

typedef struct {
    uint8_t row[TILE_MAX_ROWS][TILE_MAX_BYTES];
    int n_rows, n_bytes; /* of a row */
} emulated_tile;

static _Thread_local emulated_tile tiles[TILES];

/* ---- Decoding ---- */

typedef enum { NO_PREFIX, PREFIX_66, PREFIX_F3, PREFIX_F2 } vex_prefix;

/* One instruction with a VEX prefix of three bytes in the opcode map 0F 38. */
typedef struct {
    vex_prefix prefix;
    uint8_t opcode;
    int reg, rm, vvvv; /* tiles */
    bool has_memory;
    uint8_t *address; /* without the index, if there is one */
    int64_t index;
    int n_bytes; /* of the instruction */
} vex_instruction;

static int64_t general_register(const ucontext_t *context, int number) {
    static const int at[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                               REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                               REG_R12, REG_R13, REG_R14, REG_R15};
    return context->uc_mcontext.gregs[at[number]];
}

/* The memory operand whose ModRM byte is at p; x and b: bits 3 of index and base. */
static void decode_memory(vex_instruction *in, const uint8_t *p, int x, int b,
                          const ucontext_t *context) {
    const int mod = p[0] >> 6;
    int base = p[0] & 7, n = 1;
    if (base == 4) { /* a SIB byte */
        const int index = (p[1] >> 3 & 7) | x << 3;
        in->index = index == 4 ? 0 : general_register(context, index) << (p[1] >> 6);
        base = p[1] & 7;
        n++;
    }
    int64_t address = general_register(context, base | b << 3);
    if (mod == 1) {
        address += (int8_t)p[n];
        n += 1;
    } else if (mod == 2) {
        int32_t displacement;
        memcpy(&displacement, p + n, sizeof displacement);
        address += displacement;
        n += (int)sizeof displacement;
    } else if (base == 5) { /* without a base, which no kernel needs */
        in->n_bytes = 0;
        return;
    }
    in->address = (uint8_t *)address;
    in->n_bytes += n;
}

/* n_bytes is 0 if it is none of these. */
static vex_instruction decode(const ucontext_t *context) {
    const uint8_t *p = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
    vex_instruction in = {0};
    if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || (p[2] & 0x84) != 0) {
        return in; /* not VEX.128.0F38.W0 */
    }
    in.prefix = (vex_prefix)(p[2] & 3);
    in.vvvv = ~p[2] >> 3 & 7;
    in.opcode = p[3];
    in.reg = p[4] >> 3 & 7;
    in.rm = p[4] & 7;
    in.has_memory = p[4] >> 6 != 3;
    in.n_bytes = 4;
    if (in.has_memory) {
        decode_memory(&in, p + 4, ~p[1] >> 6 & 1, ~p[1] >> 5 & 1, context);
    } else {
        in.n_bytes++;
    }
    return in;
}

/* ---- Carrying out ---- */

static void load_configuration(const uint8_t *config) {
    for (int t = 0; t < TILES; t++) {
        uint16_t n_bytes;
        memcpy(&n_bytes, config + 16 + 2 * t, sizeof n_bytes);
        tiles[t] = (emulated_tile){.n_rows = config[48 + t], .n_bytes = n_bytes};
    }
}

static void load_tile(emulated_tile *t, const vex_instruction *in) {
    for (int i = 0; i < t->n_rows; i++) {
        memcpy(t->row[i], in->address + i * in->index, (size_t)t->n_bytes);
    }
}

static void store_tile(const emulated_tile *t, const vex_instruction *in) {
    for (int i = 0; i < t->n_rows; i++) {
        memcpy(in->address + i * in->index, t->row[i], (size_t)t->n_bytes);
    }
}

static float bf16(const uint8_t *p) {
    uint16_t half;
    memcpy(&half, p, sizeof half);
    const uint32_t bits = (uint32_t)half << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Even columns and odd ones are summed apart. */
static float dot_bf16(const emulated_tile *a, const emulated_tile *b, int i, int j) {
    float even = 0, odd = 0;
    for (int k = 0; k < a->n_bytes; k += 4) {
        even += bf16(a->row[i] + k) * bf16(b->row[k / 4] + 4 * j);
        odd += bf16(a->row[i] + k + 2) * bf16(b->row[k / 4] + 4 * j + 2);
    }
    return even + odd;
}

static int32_t dot_int8(const emulated_tile *a, const emulated_tile *b, int i, int j) {
    int32_t sum = 0;
    for (int k = 0; k < a->n_bytes; k++) {
        sum += (int8_t)a->row[i][k] * (int8_t)b->row[k / 4][4 * j + k % 4];
    }
    return sum;
}

/* c += a * b, in floats of bf16 or in int32 of int8. */
static void multiply_tiles(emulated_tile *c, const emulated_tile *a, const emulated_tile *b,
                           bool of_bf16) {
    for (int i = 0; i < c->n_rows; i++) {
        for (int j = 0; j < c->n_bytes / 4; j++) {
            uint8_t *to = c->row[i] + 4 * j;
            if (of_bf16) {
                float sum;
                memcpy(&sum, to, sizeof sum);
                sum += dot_bf16(a, b, i, j);
                memcpy(to, &sum, sizeof sum);
            } else {
                int32_t sum;
                memcpy(&sum, to, sizeof sum);
                sum += dot_int8(a, b, i, j);
                memcpy(to, &sum, sizeof sum);
            }
        }
    }
}

/* False if it is no instruction of AMX. */
static bool carry_out(const vex_instruction *in) {
    const int key = in->opcode << 8 | in->prefix << 4 | in->has_memory;
    emulated_tile *t = &tiles[in->reg];
    switch (key) {
    case 0x49 << 8 | NO_PREFIX << 4 | true: /* ldtilecfg */
        load_configuration(in->address);
        return true;
    case 0x49 << 8 | NO_PREFIX << 4 | false: /* tilerelease */
        memset(tiles, 0, sizeof tiles);
        return true;
    case 0x49 << 8 | PREFIX_F2 << 4 | false: /* tilezero */
        memset(t->row, 0, sizeof t->row);
        return true;
    case 0x4b << 8 | PREFIX_F2 << 4 | true: /* tileloadd */
    case 0x4b << 8 | PREFIX_66 << 4 | true: /* tileloaddt1 */
        load_tile(t, in);
        return true;
    case 0x4b << 8 | PREFIX_F3 << 4 | true: /* tilestored */
        store_tile(t, in);
        return true;
    case 0x5c << 8 | PREFIX_F3 << 4 | false: /* tdpbf16ps */
        multiply_tiles(t, &tiles[in->rm], &tiles[in->vvvv], true);
        return true;
    case 0x5e << 8 | PREFIX_F2 << 4 | false: /* tdpbssd */
        multiply_tiles(t, &tiles[in->rm], &tiles[in->vvvv], false);
        return true;
    default:
        return false;
    }
}

static void emulate(int signal_number, siginfo_t *info, void *data) {
    (void)signal_number;
    (void)info;
    ucontext_t *context = data;
    const vex_instruction in = decode(context);
    if (in.n_bytes == 0 || !carry_out(&in)) {
        static const char message[] = "FAILED: an instruction that this CPU does not have\n";
        const ssize_t ignored = write(STDOUT_FILENO, message, sizeof message - 1);
        (void)ignored;
        _exit(2);
    }
    context->uc_mcontext.gregs[REG_RIP] += in.n_bytes;
}

/* Whether the CPU has what the AMX tier's kernels need besides. From now on, tiles work. */
static inline bool emulate_amx(void) {
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi") ||
        !__builtin_cpu_supports("avx512bf16")) {
        return false;
    }
    struct sigaction action = {.sa_sigaction = emulate, .sa_flags = SA_SIGINFO};
    return sigaction(SIGILL, &action, NULL) == 0;
}

#endif

#endif
