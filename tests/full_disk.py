"""The program on a disk that is full, for the tests of what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_MOST_KB = 60  # of a file


def run_out_of_disk(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of pymixtral whose writes fail in the middle of a file.

    The limit of a file's size stands for the disk's.
    """
    limit = f'ulimit -f {_MOST_KB}; exec "$@"'
    program = [sys.executable, "-m", "pymixtral", *map(str, arguments)]
    return subprocess.run(
        ["bash", "-c", limit, "bash", *program], capture_output=True, text=True, check=False
    )
