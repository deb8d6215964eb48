"""The first token from a cold start of a program, as contenders of a race.

The model's pages are in the page cache: a first start, which is not measured, sees to that (but see
cold_cache.py). Both are Python programs, compiled as an installer compiles them; each loads,
tokenizes, evaluates a prompt and prints the likeliest token.
"""

from __future__ import annotations

import compileall
import json
import sys
import time
from pathlib import Path

from contenders import PeerError, shown, start_process

import pymixtral

PROMPT = "Once upon a time there was a fox who"
N_CTX = 512


class Program:
    """A program that is started for each measurement.

    Attributes:
        seconds_to_ready: of the first start.
        rest: what the program said after the first token, the last time.
    """

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._command = command
        self.rest = ""
        self.seconds_to_ready = self.measure("first token", [])

    def measure(self, test: str, ids: list[int]) -> float:
        """Seconds from the start of the process to the first byte that it prints."""
        start = time.perf_counter()
        process = start_process(self._command)
        first = process.stdout.read(1)
        seconds = time.perf_counter() - start
        self.rest = process.stdout.read()
        process.stdout.close()
        if process.wait() or not first:
            raise PeerError(f"{self.name} failed before its first token ({process.returncode})")
        return seconds

    def close(self) -> None:
        """Nothing is left running."""


def our_program(model: Path, n_threads: int, prompt: str = PROMPT, n_ctx: int = N_CTX) -> Program:
    for folder in pymixtral.__path__:
        compileall.compile_dir(folder, quiet=1)
    command = [sys.executable, "-m", "pymixtral", "run", str(model), prompt, "--quiet", "--raw"]
    command += ["--max-tokens", "1", "--temperature", "0"]
    return Program("pymixtral", [*command, "--ctx", str(n_ctx), "--threads", str(n_threads)])


class PeerProgram(Program):
    """llama.cpp, through first_token.py."""

    def __init__(
        self, python: str, model: Path, settings: dict[str, int], prompt: str = PROMPT
    ) -> None:
        script = Path(__file__).with_name("first_token.py")
        name = f"llama_cpp ({shown('llama_cpp', settings)})"
        super().__init__(name, [python, str(script), str(model), prompt, json.dumps(settings)])

    @property
    def import_seconds(self) -> float:
        """Of the package, in the last measurement."""
        return float(json.loads(self.rest.splitlines()[-1])["import_seconds"])
