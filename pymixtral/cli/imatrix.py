"""`pymixtral imatrix`: which columns of a model's matrices matter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pymixtral.calibration import Calibrator
from pymixtral.chunks import text_chunks
from pymixtral.cli.console import Console
from pymixtral.cli.model import loaded
from pymixtral.cli.options import LoadOptions, console_options, load_options, shared
from pymixtral.cli.text import read_file
from pymixtral.errors import PymixtralError
from pymixtral.formats.errors import FormatError
from pymixtral.formats.imatrix import (
    Calibration,
    read_calibration,
    read_imatrix,
    write_calibration,
)
from pymixtral.formats.partial import check_target


@click.command("imatrix")
@click.argument("model")
@click.argument("text")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--chunks",
    "max_chunks",
    type=click.IntRange(1),
    metavar="N",
    show_default="all",
    help="Use the first N chunks of the text.",
)
@click.option(
    "--save-every",
    type=click.IntRange(1),
    metavar="N",
    default=10,
    help="Chunks after which OUT is written.",
)
@click.option("--resume", is_flag=True, help="Go on with what an earlier run has left in OUT.")
@load_options(n_ctx={"default": 512, "help": "Length of a chunk."})
@shared("as_json")
@console_options
def command(
    console: Console,
    model: str,
    text: str,
    out: Path,
    max_chunks: int | None,
    save_every: int,
    resume: bool,
    load: LoadOptions,
    as_json: bool,
) -> None:
    """Measure an importance matrix on the text in the file TEXT, and write it to the file OUT.

    `quantize --imatrix OUT` and `convert --imatrix OUT` then round with more care what matters
    more, and so does llama.cpp, whose layout the file has. TEXT should be like what the model will
    read and write; some hundred chunks are plenty. Experts that it never reaches are told, and get
    the mean of their layer's others when the file is used. Ctrl-C keeps the chunks that are done.

    With --json: {file, chunks, chunk_size (tokens), seconds, unseen ["TENSOR, expert E"]}.

    \b
    Examples:
      pymixtral imatrix mixtral-Q8_0.gguf calibration.txt mixtral.imatrix
      pymixtral imatrix mixtral-Q8_0.gguf calibration.txt mixtral.imatrix --resume --chunks 200
    """
    check_target(out)
    _check_not_a_source(out, model, text)
    start = time.perf_counter()
    with loaded(console, model, load) as llm:
        chunks = text_chunks(llm, read_file(text), llm.n_ctx)[:max_chunks]
        earlier = read_calibration(out) if resume and out.exists() else None
        try:
            calibrator = Calibrator(llm, chunks, Path(text).name, earlier)
        except ValueError as error:
            raise FormatError(out, "imatrix", f"{error}; leave --resume out") from None
        n_before = calibrator.calibration.n_chunks
        with _kept(console, calibrator, out), console.progress("chunk") as progress:
            for n_done in calibrator.run():
                progress(n_done - n_before, len(chunks) - n_before)
                if n_done % save_every == 0:
                    write_calibration(out, calibrator.calibration)
    _tell_result(console, out, calibrator.calibration, time.perf_counter() - start, as_json)


def _check_not_a_source(out: Path, *sources: str) -> None:
    for source in map(Path, sources):
        if out.exists() and source.exists() and out.samefile(source):
            raise PymixtralError(f"{out}: is read by this command; write elsewhere")


@contextmanager
def _kept(console: Console, calibrator: Calibrator, out: Path) -> Iterator[None]:
    """Writes the calibration when the context ends, be it by Ctrl-C."""
    n_before = calibrator.calibration.n_chunks
    try:
        yield
    except KeyboardInterrupt:
        n_done = calibrator.calibration.n_chunks
        if n_done > n_before:
            write_calibration(out, calibrator.calibration)
            console.note(f"{out} has {n_done} chunks; --resume goes on from there")
        raise
    write_calibration(out, calibrator.calibration)


def _tell_result(
    console: Console, out: Path, calibration: Calibration, seconds: float, as_json: bool
) -> None:
    unseen = read_imatrix(out).unseen
    if as_json:
        console.json(
            {
                "file": str(out),
                "chunks": calibration.n_chunks,
                "chunk_size": calibration.chunk_size,
                "seconds": seconds,
                "unseen": unseen,
            }
        )
        return
    console.answer(
        f"{out}: {len(calibration.tensors)} tensors, {calibration.n_chunks} chunks of "
        f"{calibration.chunk_size} tokens, {seconds:.1f} s\n"
    )
    if unseen:
        console.warning(
            f"the text never reached {len(unseen)} matrices, which will get the mean of their "
            f"tensor's others: {', '.join(unseen)}; a longer text would reach more"
        )
