"""`pymixtral split`: a model to shards."""

from __future__ import annotations

import re
from pathlib import Path

import click

from pymixtral.cli.console import Console
from pymixtral.cli.options import console_options, shared
from pymixtral.cli.partial import resume_option, tell_of_partials
from pymixtral.formats.gguf_split import planned_shards, split_gguf
from pymixtral.memory import format_gb

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_size(text: str) -> int:
    """Bytes, from a size such as 4GB or 500M; units are powers of ten."""
    match = re.fullmatch(r"([1-9][0-9]{0,11})([KMG]?)B?", text.upper())
    if match is None:
        raise click.BadParameter(f"{text!r} is no size such as 4GB or 500MB")
    return int(match[1]) * _UNITS[match[2]]


@click.command("split")
@click.argument("src", metavar="IN")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--max-size",
    type=parse_size,
    metavar="SIZE",
    help="Size of a shard at most, such as 4GB or 500MB.",
)
@click.option("--max-tensors", type=click.IntRange(1), help="Tensors in a shard at most.")
@resume_option
@shared("as_json")
@console_options
def command(
    console: Console,
    src: str,
    out: Path,
    max_size: int | None,
    max_tensors: int | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Write the model in IN to shards named OUT-00001-of-00003.gguf and so on.

    If OUT ends with .gguf, that is left out. Names and contents are those of llama.cpp's
    gguf-split. Every command that takes a MODEL takes the first shard for it. The shards appear one
    by one, each when it is complete; the first is the last.

    With --json: [{file, n_bytes}].

    \b
    Examples:
      pymixtral split mixtral.gguf mixtral --max-size 4GB
      pymixtral split mixtral.gguf parts/mixtral --max-tensors 128
      pymixtral split mixtral.gguf mixtral --max-size 4GB --resume
    """
    if max_size is None and max_tensors is None:
        raise click.UsageError("give --max-size or --max-tensors")
    out = out.with_suffix("") if out.suffix == ".gguf" else out
    if not resume:
        for path in planned_shards(src, out, max_bytes=max_size, max_tensors=max_tensors):
            tell_of_partials(console, path)
    with console.byte_progress() as progress:
        paths = split_gguf(
            src,
            out,
            max_bytes=max_size,
            max_tensors=max_tensors,
            progress=progress,
            resume=resume,
        )
    shards = [{"file": str(path), "n_bytes": path.stat().st_size} for path in paths]
    if as_json:
        console.json(shards)
        return
    for path in paths:
        console.answer(f"{path}  {format_gb(path.stat().st_size)}\n")
