"""Feeds a target with inputs that libFuzzer invents, guided by what the code does with them.

    python tests/fuzz/libfuzzer.py gguf -max_total_time=60
    python tests/fuzz/libfuzzer.py gguf -runs=2000000

What follows the target are options of libFuzzer. Inputs that reach new code are kept in
build/fuzz/TARGET, from where a later run goes on. A finding is an exception, a run of over a second
of CPU time, or memory far beyond the input's; the input is then written to build/fuzz, and to mend
it means to add it to tests/fuzz/corpus/TARGET, which the test suite replays.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
WATCHED = ["pymixtral", "jinja2"] if "chat_template" in sys.argv else ["pymixtral"]
# Of Jinja, what is called for each token and node takes half the time, and tells nothing that the
# parser and the compiler do not.
UNWATCHED = ["jinja2.lexer", "jinja2.nodes", "jinja2.visitor", "jinja2.idtracking"]
with atheris.instrument_imports(include=WATCHED, exclude=UNWATCHED):
    from fuzz.targets import TARGETS, run

HERE = Path(__file__).parent
FOUND = HERE.parents[1] / "build" / "fuzz"
CPU_SECONDS = 1
# libFuzzer's own timeout is of wall time, in which a busy machine may do nothing: for hangs alone.
# Of each run, atheris and the library tokenizers keep up to two kilobytes, gigabytes in the end.
LIMITS = ["-timeout=30", "-rss_limit_mb=8192", "-malloc_limit_mb=256", "-max_len=16384"]


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {{{','.join(TARGETS)}}} [OPTION OF libFuzzer]...")
    name, *options = sys.argv[1:]
    kept = FOUND / name
    kept.mkdir(parents=True, exist_ok=True)
    words = HERE / f"{name}.dict"
    if words.exists():
        options.append(f"-dict={words}")
    options.append(f"-artifact_prefix={FOUND}/")
    folders = [str(kept), str(HERE / "corpus" / name)]  # libFuzzer adds inputs to the first
    atheris.Setup(
        [sys.argv[0], *LIMITS, *options, *folders], lambda content: run_timed(name, content)
    )
    gc.freeze()  # what is loaded by now stays; collecting need not look at it
    atheris.Fuzz()


def run_timed(name: str, content: bytes) -> None:
    started = time.process_time()
    run(TARGETS[name], content)
    taken = time.process_time() - started
    if taken > CPU_SECONDS:
        raise RuntimeError(f"took {taken:.1f} s of CPU time")


if __name__ == "__main__":
    main()
