"""The first token from a cold start of a program, with the model on the disk alone.

    python bench/cold_cache.py MODEL --peer-python peer/bin/python [-r 5]

As the row first-token, but before each start the model's pages are dropped from the page cache
(posix_fadvise(2), which any user may call for a file that no program has open). After a short
prompt, and after one of some 500 tokens, whose arithmetic takes as long as the disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from cold_start import PROMPT, PeerProgram, Program, our_program
from contenders import PEER_DEFAULTS

PROMPTS = {"short": PROMPT, "long": " ".join([PROMPT] * 22)}
N_CTX = 1024
PEER = PEER_DEFAULTS["llama_cpp"] | {"flash_attn": 1, "repack": 0}  # its best for prompts
PAUSE = 2.0  # seconds; disks that are shared, or cool down, need some


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(program: Program, model: Path) -> float:
    drop_from_cache(model)
    time.sleep(PAUSE)
    return program.measure("first token", [])


def print_race(test: str, seconds: Sequence[Sequence[float]], names: Sequence[str]) -> None:
    ratio = statistics.median(theirs / ours for ours, theirs in zip(*seconds, strict=True))
    for name, found in zip(names, seconds, strict=True):
        median = statistics.median(found)
        spread = (max(found) - min(found)) / median
        print(f"{test:6} {median:6.2f} s  spread {spread:4.0%}  {name}")
    print(f"{test:6} the peer's time over ours: {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", required=True, help="an interpreter with llama_cpp")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for test, prompt in PROMPTS.items():
        settings = PEER | {"n_ctx": N_CTX, "n_sequences": 1, "n_threads": options.threads}
        programs = [
            our_program(options.model, options.threads, prompt, N_CTX),
            PeerProgram(options.peer_python, options.model, settings, prompt),
        ]
        rounds = [[measure(p, options.model) for p in programs] for _ in range(options.rounds)]
        print_race(test, list(zip(*rounds, strict=True)), [p.name for p in programs])


if __name__ == "__main__":
    main()
