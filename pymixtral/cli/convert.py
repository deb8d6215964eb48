"""`pymixtral convert`: a checkpoint to a GGUF file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from pymixtral.cli.console import Console
from pymixtral.cli.importance import imatrix_option, read_importance
from pymixtral.cli.options import console_options, shared
from pymixtral.cli.partial import resume_option, tell_of_partials
from pymixtral.cli.recipe import chosen_recipe, tensor_type_option
from pymixtral.formats.checkpoint import ORIGINS
from pymixtral.formats.convert import Conversion, Summary
from pymixtral.memory import format_gb
from pymixtral.quantizer import encode

N_WORST = 5  # tensors shown with their errors
DEFAULT_THREADS = 2  # more wait for the disk


@click.command("convert")
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "type_name",
    metavar="TYPE",
    default="q8_0",
    help="Types of the matrices, as `pymixtral quantize` takes them: a recipe, a plain type, or a "
    "file with rules. Norms and routers stay F32.",
)
@imatrix_option
@tensor_type_option
@click.option(
    "--from",
    "origin",
    type=click.Choice(ORIGINS),
    show_default="found by content",
    help="Whose format SRC has: Hugging Face's, or that of Mistral AI's own releases.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be written; write nothing.")
@resume_option
@click.option("--name", help="Name of the model, for the file.")
@click.option("--license", help="SPDX expression, for the file.")
@shared("threads", "as_json", threads={"default": DEFAULT_THREADS, "show_default": True})
@console_options
def command(
    console: Console,
    src: Path,
    out: Path,
    type_name: str,
    imatrix: str | None,
    overrides: tuple[str, ...],
    origin: str | None,
    dry_run: bool,
    resume: bool,
    name: str | None,
    license: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Convert the checkpoint SRC to the GGUF file OUT.

    SRC is a folder, or a file in one: a Mixtral, or a dense Mistral or Llama, of Hugging Face
    (config.json) or of Mistral AI's own releases (params.json), in safetensors or PyTorch files,
    whole, in shards or in byte splits. OUT appears only when it is complete and checked.

    With --json: {file, type, tensors, n_bytes, bits_per_weight, seconds, resumed (tensors), errors
    {tensor: relative}}; with --dry-run {file, type, tensors [{name, type, shape, n_bytes}],
    n_bytes, free, fits}.

    \b
    Examples:
      pymixtral convert Mixtral-8x7B-Instruct-v0.1 mixtral.gguf --type bf16 --dry-run
      pymixtral convert Mixtral-8x7B-Instruct-v0.1 mixtral.gguf --type q4_k_m
      pymixtral convert Mixtral-8x7B-Instruct-v0.1 mixtral.gguf --type q3_k_m --imatrix it.imatrix
      pymixtral convert Mixtral-8x7B-Instruct-v0.1 mixtral.gguf --type q8_0 --resume
    """
    recipe = chosen_recipe(type_name, overrides)
    if not resume:
        tell_of_partials(console, out)
    with Conversion(src, out, recipe, origin=origin, name=name, license=license) as conversion:
        for warning in conversion.warnings:
            console.warning(warning)
        importance = read_importance(console, imatrix, conversion.hparams)
        if dry_run:
            _print_plan(console, conversion, recipe.name, as_json)
            return
        start = time.perf_counter()
        with console.byte_progress() as progress:
            summary = conversion.run(
                progress, threads=threads, resume=resume, encode=encode, imatrix=importance
            )
        facts = _facts(out, recipe.name, summary, time.perf_counter() - start)
    if as_json:
        console.json(facts)
    else:
        _print_summary(console, facts)


def _print_plan(console: Console, conversion: Conversion, type_name: str, as_json: bool) -> None:
    tensors: list[dict[str, Any]] = [
        {"name": t.name, "type": t.type_id.name, "shape": t.shape, "n_bytes": t.n_bytes}
        for t in conversion.targets
    ]
    n_bytes, n_free = conversion.n_bytes, conversion.n_free
    if as_json:
        console.json(
            {
                "file": str(conversion.out),
                "type": type_name.upper(),
                "tensors": tensors,
                "n_bytes": n_bytes,
                "free": n_free,
                "fits": n_bytes <= n_free,
            }
        )
        return
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"]))
        console.answer(
            f"{tensor['name']:32} {tensor['type']:5} {shape:20} {tensor['n_bytes']:>13,}\n"
        )
    room = "enough" if n_bytes <= n_free else "NOT ENOUGH"
    console.answer(
        f"{len(tensors)} tensors, {n_bytes:,} bytes ({format_gb(n_bytes)}); "
        f"{format_gb(n_free)} free on the disk: {room}\n"
    )


def _facts(out: Path, type_name: str, summary: Summary, seconds: float) -> dict[str, Any]:
    worst = sorted(summary.errors.items(), key=lambda item: -item[1])
    return {
        "file": str(out),
        "type": type_name.upper(),
        "tensors": summary.n_tensors,
        "n_bytes": summary.n_bytes,
        "bits_per_weight": 8 * summary.n_bytes / summary.n_weights,
        "seconds": seconds,
        "resumed": summary.n_resumed,
        "errors": dict(worst),
    }


def _print_summary(console: Console, facts: dict[str, Any]) -> None:
    resumed = f", {facts['resumed']} of them from an earlier run" if facts["resumed"] else ""
    console.answer(
        f"{facts['file']}: {facts['tensors']} tensors{resumed}, {format_gb(facts['n_bytes'])}, "
        f"{facts['bits_per_weight']:.2f} bits per weight, {facts['seconds']:.1f} s\n"
    )
    for name, error in list(facts["errors"].items())[:N_WORST]:
        console.answer(f"  error {error:.2e} (relative RMS)  {name}\n")
