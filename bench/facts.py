"""What is told of a run besides what it measured."""

from __future__ import annotations

import datetime
import os
import re
import shlex
import sys
from pathlib import Path

from pymixtral import _cengine


def facts_of_run(threads: int, rounds: int) -> dict[str, str]:
    """Of the program that runs: date, machine, compiler, and the command, in Markdown."""
    return {
        "date": datetime.date.today().isoformat(),
        "CPU": _cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0))}, {threads} threads",
        "our compiler": _our_compiler(),
        "rounds": str(rounds),
        "command": f"`python bench/{Path(sys.argv[0]).name} {_arguments()}`",
    }


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else "unknown"


def _our_compiler() -> str:
    """As it signed the compiled module."""
    found = re.search(rb"(GCC: |clang version )[\x20-\x7e]+", Path(_cengine.__file__).read_bytes())
    return found.group().decode() if found else "unknown"


def _arguments() -> str:
    """This run's, without the folders of absolute paths."""
    return re.sub(r"(^|[ =])/[^ ]*/", r"\1", shlex.join(sys.argv[1:]))
