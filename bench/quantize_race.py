"""Races `pymixtral quantize` against llama.cpp's llama_model_quantize on one file, in rounds.

    python bench/make_synthetic.py synthetic-1L.F16.gguf --layers 1 --type F16
    python bench/quantize_race.py synthetic-1L.F16.gguf --peer-python peer/bin/python q4_k_m

Both read the same file and write the same types, with the same number of threads, each in a process
of its own. Printed are the medians of the wall-clock times from start to exit, and of the ratios
(theirs to ours: above 1 pymixtral is faster).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pymixtral.engine import default_threads
from pymixtral.formats import open_gguf
from pymixtral.formats.recipes import RECIPES

PEER = """
import sys
from llama_cpp import llama_cpp as lib
silence = lib.llama_log_callback(lambda level, text, user: None)
lib.llama_log_set(silence, None)
params = lib.llama_model_quantize_default_params()
params.ftype, params.nthread = int(sys.argv[3]), int(sys.argv[4])
sys.exit(lib.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def types(path: Path) -> dict[str, str]:
    with open_gguf(path) as gguf:
        return {name: info.type_name for name, info in gguf.tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantizing: pymixtral against llama.cpp.")
    parser.add_argument("model", help="GGUF file in a float type")
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--peer-python", required=True, help="the interpreter that has llama_cpp")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    threads, file_type = str(options.threads), str(RECIPES[options.recipe].file_type)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory(dir=Path(options.model).parent) as folder:
        a, b = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        program = [sys.executable, "-m", "pymixtral", "quantize", options.model, str(a)]
        peer = [options.peer_python, "-c", PEER, options.model, str(b)]
        for _ in range(options.rounds):
            ours.append(seconds([*program, options.recipe, "-q", "-t", threads]))
            theirs.append(seconds([*peer, file_type, threads]))
        if types(a) != types(b):
            raise SystemExit("the two files differ in their types; the race compares nothing")
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    print(
        f"{options.recipe}, {threads} threads, {options.rounds} rounds: "
        f"pymixtral {statistics.median(ours):.1f} s, llama.cpp {statistics.median(theirs):.1f} s, "
        f"ratio {ratio:.1f}"
    )


if __name__ == "__main__":
    main()
