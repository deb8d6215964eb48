"""`pymixtral pack`: a model's weights in the layout that is read fastest, to a file beside it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pymixtral.cli.console import Console
from pymixtral.cli.model import opened
from pymixtral.cli.options import console_options, shared
from pymixtral.cli.partial import tell_of_partials
from pymixtral.formats.packed import packed_path
from pymixtral.formats.packed_writer import write_packed
from pymixtral.memory import format_gb
from pymixtral.packer import Packer, packed_header


@click.command("pack")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    show_default="MODEL.packed",
    help="File to write. It is used where it lies beside the model by that name.",
)
@shared("threads", "as_json")
@console_options
def command(
    console: Console, model: Path, out: Path | None, threads: int | None, as_json: bool
) -> None:
    """Write the weights of MODEL, the first of its files, once more, in a layout read faster.

    Every command that runs MODEL then maps MODEL.packed with it, which is as fast as --repack and
    takes no time when it is loaded. The text stays the same. The model must stay where it is, too;
    after a change of it (a download that was repaired, too), or with a newer program, pack it
    again: a load compares samples of the weights, `pymixtral verify` all of them. It takes as much
    room on the disk as the model, and no more memory. OUT appears only when it is complete.

    With --json: {file, tensors, n_bytes, seconds}.

    \b
    Examples:
      pymixtral pack mixtral.gguf                        # writes mixtral.gguf.packed
      pymixtral pack mixtral-00001-of-00003.gguf
      pymixtral run mixtral.gguf "Why is the sky blue?" --no-repack
    """
    start = time.perf_counter()
    with opened(console, str(model)) as file:
        beside = packed_path(file.gguf.path)
        out = out or beside
        tell_of_partials(console, out, "delete it")
        header = packed_header(file.gguf)
        with console.byte_progress() as progress, Packer(threads) as packer:
            write_packed(file.gguf, out, header, packer, progress)
    n_bytes, seconds = out.stat().st_size, time.perf_counter() - start
    if not (beside.exists() and beside.samefile(out)):
        console.note(f"it will be used where it lies as {beside}")
    if as_json:
        console.json(
            {
                "file": str(out),
                "tensors": len(header.sizes),
                "n_bytes": n_bytes,
                "seconds": seconds,
            }
        )
        return
    console.answer(f"{out}: {len(header.sizes)} tensors, {format_gb(n_bytes)}, {seconds:.1f} s\n")
