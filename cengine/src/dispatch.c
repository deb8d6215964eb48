#include "dispatch.h"

#include "cpu.h"
#include "error.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    const char *base; /* the tier whose kernels it overlays; NULL: it has them all */
    bool (*supported)(void);
    void (*overlay)(ce_kernels *k);
} tier;

/* Worst first. A CPU that has a tier has its base. */
static const tier tiers[] = {
    {"generic", NULL, ce_cpu_has_generic, ce_kernels_generic},
#if defined(__x86_64__)
    {"avx2", "generic", ce_cpu_has_avx2, ce_kernels_avx2},
    {"avxvnni", "avx2", ce_cpu_has_avxvnni, ce_kernels_avxvnni},
    {"avx512vnni", "avx2", ce_cpu_has_avx512vnni, ce_kernels_avx512vnni},
    {"amx", "avx512vnni", ce_cpu_has_amx, ce_kernels_amx},
#elif defined(__aarch64__)
    {"neon", "generic", ce_cpu_has_neon, ce_kernels_neon},
    {"i8mm", "neon", ce_cpu_has_i8mm, ce_kernels_i8mm},
#endif
};

enum { N_TIERS = sizeof tiers / sizeof tiers[0] };

const char *ce_tier_name(int32_t i) { return i >= 0 && i < N_TIERS ? tiers[i].name : NULL; }

int32_t ce_tier_supported(int32_t i) { return i >= 0 && i < N_TIERS && tiers[i].supported(); }

static int best_tier(void) {
    int best = 0;
    for (int i = 0; i < N_TIERS; i++) {
        best = tiers[i].supported() ? i : best;
    }
    return best;
}

static int find_tier(const char *name) {
    for (int i = 0; i < N_TIERS; i++) {
        if (strcmp(tiers[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* "generic, avx2": what this CPU can run. */
static void list_supported(char *list, size_t size) {
    list[0] = '\0';
    for (int i = 0; i < N_TIERS; i++) {
        if (tiers[i].supported()) {
            strncat(list, i == 0 ? "" : ", ", size - strlen(list) - 1);
            strncat(list, tiers[i].name, size - strlen(list) - 1);
        }
    }
}

static void overlay_from_base(const tier *t, ce_kernels *k) {
    if (t->base != NULL) {
        overlay_from_base(&tiers[find_tier(t->base)], k);
    }
    t->overlay(k);
}

ce_status ce_select_kernels(const char *name_or_null, ce_kernels *out, ce_error *err) {
    const char *name = name_or_null != NULL ? name_or_null : getenv("PYMIXTRAL_TIER");
    const bool automatic = name_or_null == NULL && (name == NULL || name[0] == '\0');
    const int chosen = automatic ? best_tier() : find_tier(name);
    if (chosen < 0 || !tiers[chosen].supported()) {
        char list[128];
        list_supported(list, sizeof list);
        return ce_fail(err, CE_ERR_TIER, "%s instruction-set tier \"%.40s\"; this CPU can run: %s",
                       chosen < 0 ? "unknown" : "this CPU lacks the", name, list);
    }
    overlay_from_base(&tiers[chosen], out);
    return ce_ok(err);
}
