"""What commands that draw share: what is asked of a picture's name and of the machine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import click

from pymixtral.errors import PymixtralError

ENDINGS = (".png", ".svg", ".pdf")


def check_plot(path: str) -> None:
    """Refuses a picture that could not be drawn, before a model is loaded for it.

    Raises:
        click.UsageError: the file's name has another ending.
        PymixtralError: it cannot be written there, or matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in ENDINGS:
        raise click.UsageError(f"--plot: {path} must end in {', '.join(ENDINGS)}")
    folder = Path(path).parent
    if not folder.is_dir():
        raise PymixtralError(f"--plot {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK) and not os.path.exists(path):
        raise PymixtralError(f"--plot {path}: no file can be made in {folder}")
    if find_spec("matplotlib") is None:
        raise PymixtralError("--plot needs matplotlib; install it: pip install 'pymixtral[plot]'")
