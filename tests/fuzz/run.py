"""Coverage-guided fuzzing of what reads model files.

    pip install 'pymixtral[fuzz]'
    PYTHONPATH=tests python tests/fuzz/run.py gguf --seconds 60

A crash is a file in the current folder; put it into tests/fuzz/corpus once it is mended.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pymixtral"]):
    from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=0, help="0: without end")
    parser.add_argument("--runs", type=int, default=-1, help="-1: without end")
    parser.add_argument("--max-seconds-per-run", type=int, default=5)
    options = parser.parse_args()
    target = TARGETS[options.target]

    def call(data: bytes) -> None:
        target(data)

    with tempfile.TemporaryDirectory() as found:
        arguments = [
            sys.argv[0],
            f"-max_total_time={options.seconds}",
            f"-runs={options.runs}",
            f"-timeout={options.max_seconds_per_run}",
            "-max_len=8192",
            "-rss_limit_mb=1024",
            found,
            str(CORPUS / options.target),
        ]
        atheris.Setup(arguments, call)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
