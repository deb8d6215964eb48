"""What killed runs have left: said where a command could go on with it."""

from __future__ import annotations

from pathlib import Path

import click

from pymixtral.cli.console import Console
from pymixtral.formats.partial import find_partials
from pymixtral.memory import format_gb

resume_option = click.option(
    "--resume",
    is_flag=True,
    help="Go on where a run that was killed had got to; if this one is stopped, keep its work.",
)


def tell_of_partials(console: Console, out: Path, advice: str = "--resume or delete it") -> None:
    """Warns of unfinished files of `out`."""
    partials = find_partials(out) if out.absolute().parent.is_dir() else []
    for path in partials:
        size = format_gb(path.stat().st_size)
        console.warning(f"{path} ({size}) is left of a run that was killed: {advice}")
