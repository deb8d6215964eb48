#if defined(__linux__)
#define _GNU_SOURCE
#include <sched.h>
#include <sys/syscall.h>
#endif

#include "cpu.h"

#include "cengine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- Instruction sets ---- */

#if defined(__x86_64__)
#include <cpuid.h>

/* CPUID feature bits (Intel SDM volume 2A, CPUID). */
enum {
    LEAF1_ECX_FMA = 1 << 12,
    LEAF1_ECX_OSXSAVE = 1 << 27,
    LEAF1_ECX_AVX = 1 << 28,
    LEAF1_ECX_F16C = 1 << 29,
    LEAF7_EBX_AVX2 = 1 << 5,
    LEAF7_EBX_AVX512F = 1 << 16,
    LEAF7_EBX_AVX512DQ = 1 << 17,
    LEAF7_EBX_AVX512BW = 1 << 30,
    LEAF7_ECX_AVX512VBMI = 1 << 1,
    LEAF7_ECX_AVX512VNNI = 1 << 11,
    LEAF7_EDX_AMX_BF16 = 1 << 22,
    LEAF7_EDX_AMX_TILE = 1 << 24,
    LEAF7_EDX_AMX_INT8 = 1 << 25,
    LEAF7_1_EAX_AVX_VNNI = 1 << 4,
    LEAF7_1_EAX_AVX512_BF16 = 1 << 5
};
static const unsigned LEAF7_EBX_AVX512VL = 1u << 31;

/* XCR0: register state that the operating system saves. */
enum {
    XCR0_YMM = 1 << 1 | 1 << 2,                     /* xmm and ymm */
    XCR0_ZMM = XCR0_YMM | 1 << 5 | 1 << 6 | 1 << 7, /* mask registers and zmm */
    XCR0_TILES = 1 << 17 | 1 << 18                  /* tile configuration and data */
};

typedef struct {
    unsigned leaf1_ecx, leaf7_ebx, leaf7_ecx, leaf7_edx, leaf7_1_eax, xcr0;
} x86_features;

static unsigned read_xcr0(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static x86_features read_features(void) {
    x86_features f = {0};
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) {
        f.leaf1_ecx = ecx;
    }
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
        f.leaf7_ebx = ebx;
        f.leaf7_ecx = ecx;
        f.leaf7_edx = edx;
    }
    if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) {
        f.leaf7_1_eax = eax;
    }
    if (f.leaf1_ecx & LEAF1_ECX_OSXSAVE) {
        f.xcr0 = read_xcr0();
    }
    return f;
}

static bool has_all(unsigned value, unsigned bits) { return (value & bits) == bits; }

bool ce_cpu_has_avx2(void) {
    const x86_features f = read_features();
    return has_all(f.leaf1_ecx, LEAF1_ECX_AVX | LEAF1_ECX_FMA | LEAF1_ECX_F16C) &&
           has_all(f.leaf7_ebx, LEAF7_EBX_AVX2) && has_all(f.xcr0, XCR0_YMM);
}

bool ce_cpu_has_avxvnni(void) {
    return ce_cpu_has_avx2() && has_all(read_features().leaf7_1_eax, LEAF7_1_EAX_AVX_VNNI);
}

bool ce_cpu_has_avx512vnni(void) {
    const x86_features f = read_features();
    return ce_cpu_has_avx2() &&
           has_all(f.leaf7_ebx, LEAF7_EBX_AVX512F | LEAF7_EBX_AVX512BW | LEAF7_EBX_AVX512DQ |
                                    LEAF7_EBX_AVX512VL) &&
           has_all(f.leaf7_ecx, LEAF7_ECX_AVX512VNNI) && has_all(f.xcr0, XCR0_ZMM);
}

#if defined(CE_EMULATE_AMX)
/* `make test-amx` has the tile instructions carried out by itself. */
#include "emulate_amx.h"

bool ce_cpu_has_amx(void) { return ce_cpu_has_avx512vnni() && emulate_amx(); }
#else
/* Linux saves the 8 KB of tiles only for processes that ask (Documentation/arch/x86/xstate.rst). */
static bool request_tiles(void) {
#if defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

bool ce_cpu_has_amx(void) {
    const x86_features f = read_features();
    return ce_cpu_has_avx512vnni() && has_all(f.leaf7_ecx, LEAF7_ECX_AVX512VBMI) &&
           has_all(f.leaf7_edx, LEAF7_EDX_AMX_TILE | LEAF7_EDX_AMX_INT8 | LEAF7_EDX_AMX_BF16) &&
           has_all(f.leaf7_1_eax, LEAF7_1_EAX_AVX512_BF16) && has_all(f.xcr0, XCR0_TILES) &&
           request_tiles();
}
#endif

#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

/* NEON itself is part of the architecture. */
bool ce_cpu_has_neon(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }

bool ce_cpu_has_i8mm(void) {
    return ce_cpu_has_neon() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
}

#elif defined(__aarch64__)
bool ce_cpu_has_neon(void) { return false; }
bool ce_cpu_has_i8mm(void) { return false; }
#endif

bool ce_cpu_has_generic(void) { return true; }

/* ---- Threads ---- */

/* CPUs that this process may run on. */
static int affinity_cpus(void) {
#if defined(__linux__)
    /* The kernel refuses a mask that is smaller than its own: grow it until it fits. */
    for (int n_cpus = 1024; n_cpus <= 1 << 20; n_cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(n_cpus);
        if (set == NULL) {
            break;
        }
        const size_t size = CPU_ALLOC_SIZE(n_cpus);
        const int status = sched_getaffinity(0, size, set);
        const int too_small = status != 0 && errno == EINVAL;
        const int count = status == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (!too_small) {
            if (count > 0) {
                return count;
            }
            break;
        }
    }
#endif
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

enum { PATH_SIZE = 4096, UNLIMITED = 1 << 30 };

/* The first line of directory/file, without its newline; false if there is none. */
static bool read_line(char *line, int size, const char *directory, const char *file) {
    char path[PATH_SIZE + 64];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return false;
    }
    const bool ok = fgets(line, size, f) != NULL;
    fclose(f);
    line[ok ? strcspn(line, "\n") : 0] = '\0';
    return ok;
}

static int cpus_of_quota(double quota, double period) {
    if (quota <= 0 || period <= 0 || quota / period >= UNLIMITED) {
        return UNLIMITED;
    }
    const int whole = (int)(quota / period);
    return whole + (whole * period < quota);
}

/* CPUs that the quota of one cgroup allows. Version 2: cpu.max is "quota period" or "max period".
 * Version 1: a quota of -1 means none. */
static int cgroup_cpus(const char *directory) {
    char line[64];
    double quota, period;
    if (read_line(line, sizeof line, directory, "cpu.max") &&
        sscanf(line, "%lf %lf", &quota, &period) == 2) {
        return cpus_of_quota(quota, period);
    }
    if (read_line(line, sizeof line, directory, "cpu.cfs_quota_us") &&
        sscanf(line, "%lf", &quota) == 1 &&
        read_line(line, sizeof line, directory, "cpu.cfs_period_us") &&
        sscanf(line, "%lf", &period) == 1) {
        return cpus_of_quota(quota, period);
    }
    return UNLIMITED;
}

/* The least of the quotas of a cgroup and its ancestors. Directories that this process cannot see
 * (a container shows its own group as the root) count as unlimited. */
static int cgroup_path_cpus(const char *mount, const char *cgroup) {
    char path[PATH_SIZE];
    const int length = snprintf(path, sizeof path, "%s%s", mount, cgroup);
    if (length < 0 || length >= (int)sizeof path) {
        return UNLIMITED;
    }
    int cpus = UNLIMITED;
    for (;;) {
        const int here = cgroup_cpus(path);
        cpus = here < cpus ? here : cpus;
        char *slash = strrchr(path, '/');
        if (slash == NULL || (size_t)(slash - path) < strlen(mount)) {
            return cpus;
        }
        *slash = '\0';
    }
}

/* Whether a comma-separated list of controllers has "cpu"; the list of version 2 is empty. */
static bool is_cpu_hierarchy(const char *controllers) {
    if (controllers[0] == '\0') {
        return true;
    }
    for (const char *c = controllers; c != NULL; c = strchr(c, ',')) {
        c += *c == ',';
        if (strncmp(c, "cpu", 3) == 0 && (c[3] == ',' || c[3] == '\0')) {
            return true;
        }
    }
    return false;
}

/* CPUs that the quotas of this process's cgroups allow. A line of /proc/self/cgroup reads
 * "hierarchy:controllers:path" (cgroups(7)). */
static int quota_cpus(void) {
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified",
                                         "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"};
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f == NULL) {
        return UNLIMITED;
    }
    int cpus = UNLIMITED;
    char line[PATH_SIZE];
    while (fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL) {
            continue;
        }
        *path++ = '\0';
        if (!is_cpu_hierarchy(controllers + 1)) {
            continue;
        }
        for (size_t i = 0; i < sizeof mounts / sizeof mounts[0]; i++) {
            const int here = cgroup_path_cpus(mounts[i], path);
            cpus = here < cpus ? here : cpus;
        }
    }
    fclose(f);
    return cpus;
}

int32_t ce_default_threads(void) {
    const int allowed = affinity_cpus(), quota = quota_cpus();
    return quota < allowed ? quota : allowed;
}

int64_t ce_nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
