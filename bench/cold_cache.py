"""The first token from a cold start of a program, with the model on the disk alone.

    python bench/cold_cache.py MODEL --peer-python peer/bin/python [-r 5]

As the row first-token, but before each start the model's pages are dropped from the page cache
(posix_fadvise(2), which any user may call for a file that no program has open). After a short
prompt, and after one of some 500 tokens, whose arithmetic takes as long as the disk. Printed are
medians, spreads, and how many times as fast as each program ours is.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from cold_start import PROMPT, PeerProgram, Program, our_program
from contenders import PEER_DEFAULTS
from race import Race

PROMPTS = {"short": PROMPT, "long": " ".join([PROMPT] * 22)}
N_CTX = 1024
PEER = PEER_DEFAULTS["llama_cpp"] | {"flash_attn": 1, "repack": 0}  # its best for prompts
PAUSE = 2.0  # seconds; disks that are shared, or cool down, need some


class ColdProgram:
    """A program that finds the model on the disk alone."""

    def __init__(self, program: Program, model: Path) -> None:
        self.name, self.seconds_to_ready = program.name, program.seconds_to_ready
        self._program, self._model = program, model

    def measure(self, test: str, ids: list[int]) -> float:
        with self._model.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        time.sleep(PAUSE)
        return self._program.measure(test, ids)

    def close(self) -> None:
        """Nothing is left running."""


def print_results(prompt: str, race: Race) -> None:
    for r in race.results():
        figures = f"{1 / r.tokens_per_second:6.2f} s  spread {r.spread:4.0%}"
        print(f"{prompt:6} {figures}  {r.ours_over_this:5.2f}x  {r.engine}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", required=True, help="an interpreter with llama_cpp")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for name, prompt in PROMPTS.items():
        settings = PEER | {"n_ctx": N_CTX, "n_sequences": 1, "n_threads": options.threads}
        programs = [
            our_program(options.model, options.threads, prompt, N_CTX),
            PeerProgram(options.peer_python, options.model, settings, prompt),
        ]
        race = Race(sizes={"first token": 1}, bytes_per_token=0)
        for _ in range(options.rounds):
            race.run_round([ColdProgram(p, options.model) for p in programs], None, [])
        print_results(name, race)


if __name__ == "__main__":
    main()
