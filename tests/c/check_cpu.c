/* How many threads are the default: cgroup quotas, of files that are made up here (the linker puts
 * `__wrap_fopen` in the place of fopen), and the CPU affinity of this process. */
#define _GNU_SOURCE
#include "check.h"

#include <sched.h>

#define FOLDER "/sys/fs/cgroup"

enum { ALL = 1 << 20 }; /* more CPUs than any machine has: the affinity decides */

typedef struct {
    const char *name, *content;
} text_file;

typedef struct {
    const char *subject;
    text_file files[6]; /* those that exist; the rest of the system has none */
    int threads;        /* that the quota allows */
} machine;

static const machine machines[] = {
    {"no cgroups", {{0}}, ALL},
    {"version 2, without a quota",
     {{"/proc/self/cgroup", "0::/a\n"}, {FOLDER "/a/cpu.max", "max 100000\n"}},
     ALL},
    {"version 2", {{"/proc/self/cgroup", "0::/a\n"}, {FOLDER "/a/cpu.max", "100000 100000\n"}}, 1},
    {"a part of a CPU",
     {{"/proc/self/cgroup", "0::/a\n"}, {FOLDER "/a/cpu.max", "1000 100000\n"}},
     1},
    {"the quota of an ancestor",
     {{"/proc/self/cgroup", "0::/a/b/c\n"},
      {FOLDER "/a/b/c/cpu.max", "max 100000\n"},
      {FOLDER "/a/cpu.max", "50000 100000\n"}},
     1},
    {"a container, which shows its group as the root",
     {{"/proc/self/cgroup", "0::/\n"}, {FOLDER "/cpu.max", "100000 100000\n"}},
     1},
    {"version 1",
     {{"/proc/self/cgroup", "7:memory:/m\n4:cpu,cpuacct:/a\n"},
      {FOLDER "/cpu,cpuacct/a/cpu.cfs_quota_us", "100000\n"},
      {FOLDER "/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"}},
     1},
    {"version 1, without a quota",
     {{"/proc/self/cgroup", "4:cpu:/a\n"},
      {FOLDER "/cpu/a/cpu.cfs_quota_us", "-1\n"},
      {FOLDER "/cpu/a/cpu.cfs_period_us", "100000\n"}},
     ALL},
    {"the quota of another controller's hierarchy",
     {{"/proc/self/cgroup", "7:cpuset:/a\n"}, {FOLDER "/a/cpu.max", "100000 100000\n"}},
     ALL},
    {"nonsense",
     {{"/proc/self/cgroup", "0::/a\nno colons\n0:\n\n"}, {FOLDER "/a/cpu.max", "-5 0\n"}},
     ALL},
    {"a period of nothing",
     {{"/proc/self/cgroup", "0::/a\n"}, {FOLDER "/a/cpu.max", "100000 0\n"}},
     ALL},
};

static const machine *present;

FILE *__wrap_fopen(const char *name, const char *mode);

FILE *__wrap_fopen(const char *name, const char *mode) {
    (void)mode;
    for (int i = 0; i < 6 && present->files[i].name != NULL; i++) {
        const text_file *file = &present->files[i];
        if (strcmp(name, file->name) == 0) {
            return fmemopen((void *)file->content, strlen(file->content), "r");
        }
    }
    return NULL;
}

int main(void) {
    report_crashes();
    cpu_set_t before;
    if (sched_getaffinity(0, sizeof before, &before) != 0) {
        printf("check_cpu: skipped, this machine has more than %d CPUs\n", CPU_SETSIZE);
        return 0;
    }
    const int n_cpus = CPU_COUNT(&before);
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        present = &machines[i];
        snprintf(check_subject, sizeof check_subject, "%s", present->subject);
        const int expected = present->threads < n_cpus ? present->threads : n_cpus;
        CHECK(ce_default_threads() == expected, "%d threads, not %d", ce_default_threads(),
              expected);
    }

    snprintf(check_subject, sizeof check_subject, "affinity");
    present = &machines[0];
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++) {
        if (CPU_ISSET(cpu, &before)) {
            CPU_SET(cpu, &one);
        }
    }
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0, "cannot be set");
    CHECK(ce_default_threads() == 1, "%d threads on one CPU", ce_default_threads());
    return summary("check_cpu");
}
