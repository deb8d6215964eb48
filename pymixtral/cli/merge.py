"""`pymixtral merge`: several files of a model to one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pymixtral.cli.console import Console
from pymixtral.cli.metadata import remove_option, set_option
from pymixtral.cli.options import console_options, shared
from pymixtral.cli.partial import resume_option, tell_of_partials
from pymixtral.formats.expert_layout import ExpertLayout
from pymixtral.formats.gguf_split import merge_gguf
from pymixtral.formats.metadata_edits import MetadataEdits
from pymixtral.memory import format_gb


@click.command("merge")
@click.argument("src", metavar="IN")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice([layout.value for layout in ExpertLayout]),
    default=ExpertLayout.MERGED.value,
    help="Of the experts: a tensor for all of a layer, or, as in December 2023, one for each.",
)
@resume_option
@set_option
@remove_option
@shared("as_json")
@console_options
def command(
    console: Console,
    src: str,
    out: Path,
    layout: str,
    resume: bool,
    changed: dict[str, str],
    removed: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the model in IN, the first of its files, to the one file OUT.

    IN is a shard (mixtral-00001-of-00003.gguf), a byte split (mixtral.gguf.part1of2,
    mixtral.gguf-split-a), or a whole file whose experts are to be laid out anew. All of these run
    as they are; other programs want them merged. OUT appears only when it is complete and checked.
    Metadata can be edited on the way.

    With --json: {file, tensors, resumed (tensors), n_bytes, seconds}.

    \b
    Examples:
      pymixtral merge mixtral-00001-of-00003.gguf mixtral.gguf
      pymixtral merge mixtral.gguf-split-a mixtral.gguf
      pymixtral merge mixtral-of-december-2023.gguf mixtral.gguf
      pymixtral merge mixtral.gguf fixed.gguf --set llama.rope.freq_base=1000000
      pymixtral merge mixtral.gguf fixed.gguf --set tokenizer.chat_template=@template.jinja
    """
    if not resume:
        tell_of_partials(console, out)
    start = time.perf_counter()
    with console.byte_progress() as progress:
        merged = merge_gguf(
            src,
            out,
            ExpertLayout(layout),
            progress,
            edits=MetadataEdits(changed, removed),
            resume=resume,
        )
    n_bytes, seconds = out.stat().st_size, time.perf_counter() - start
    if as_json:
        console.json(
            {
                "file": str(out),
                "tensors": merged.n_tensors,
                "resumed": merged.n_resumed,
                "n_bytes": n_bytes,
                "seconds": seconds,
            }
        )
        return
    resumed = f", {merged.n_resumed} of them from an earlier run" if merged.n_resumed else ""
    console.answer(
        f"{out}: {merged.n_tensors} tensors{resumed}, {format_gb(n_bytes)}, {seconds:.1f} s\n"
    )
