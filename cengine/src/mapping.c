/* What happens when a mapped file is truncated by somebody else: the system has no bytes for a page
 * that is touched, and sends SIGBUS. There is no way on from there, but there is a way to say why.
 * One of the few POSIX files. */
#define _DEFAULT_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "cengine.h"

static char last_words[512];
static atomic_flag is_said = ATOMIC_FLAG_INIT;

/* Only what a signal handler may call. Threads share the weights, so that several may come here:
 * one speaks, and the others wait for the end. */
static void say_and_exit(int signal_number) {
    (void)signal_number;
    while (atomic_flag_test_and_set(&is_said))
        pause();
    const ssize_t ignored = write(STDERR_FILENO, last_words, strlen(last_words));
    (void)ignored;
    _exit(1);
}

void ce_explain_bus_errors(const char *line) {
    const struct sigaction action = {.sa_handler = say_and_exit};
    strncpy(last_words, line, sizeof last_words - 1);
    sigaction(SIGBUS, &action, NULL);
}
