"""`pymixtral quantize`: a smaller file of the same model."""

from __future__ import annotations

import math
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import click

from pymixtral.cli.console import Console
from pymixtral.cli.importance import imatrix_option, read_importance
from pymixtral.cli.metadata import remove_option, set_option
from pymixtral.cli.options import console_options, shared
from pymixtral.cli.partial import resume_option, tell_of_partials
from pymixtral.cli.recipe import chosen_recipe, tensor_type_option
from pymixtral.formats.blocks import TYPES
from pymixtral.formats.gguf import open_gguf
from pymixtral.formats.gguf_shards import open_model_file
from pymixtral.formats.hparams import read_hparams
from pymixtral.formats.metadata_edits import MetadataEdits
from pymixtral.formats.quantize import QuantizeSummary, plan, quantize_gguf
from pymixtral.formats.recipes import Recipe
from pymixtral.memory import format_gb
from pymixtral.quantizer import Quantizer

N_WORST = 5  # tensors


@click.command("quantize")
@click.argument("src", metavar="IN")
@click.argument("out", metavar="OUT")
@click.argument("recipe", metavar="TYPE")
@imatrix_option
@tensor_type_option
@click.option("--allow-requantize", is_flag=True, help="Quantize what is quantized already.")
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
@resume_option
@set_option
@remove_option
@shared("threads", "as_json")
@console_options
def command(
    console: Console,
    src: str,
    out: str,
    recipe: str,
    imatrix: str | None,
    overrides: tuple[str, ...],
    allow_requantize: bool,
    dry_run: bool,
    resume: bool,
    changed: dict[str, str],
    removed: tuple[str, ...],
    threads: int | None,
    as_json: bool,
) -> None:
    """Write the model in the file IN to the file OUT, with weights of the given TYPE.

    TYPE is a recipe (q2_k, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m, q6_k), a plain
    type (q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl, iq4_xs, f16, bf16, f32), or a file with rules of
    your own; docs/quantizing.md shows what each costs and how rules are written.

    With --json: {n_bytes, bits_per_weight, seconds, resumed (tensors), tensors [{name, type,
    n_bytes, relative_error}]}, the tensors being those that this run did not just copy; with
    --dry-run: {n_bytes, free, tensors [{name, source, type, n_bytes}]}.

    \b
    Examples:
      pymixtral quantize mixtral-F16.gguf mixtral-Q4_K_M.gguf q4_k_m
      pymixtral quantize mixtral-F16.gguf small.gguf q2_k --imatrix mixtral.imatrix
      pymixtral quantize mixtral-F16.gguf mine.gguf q3_k_m --tensor-type ffn_down=q5_k --dry-run
    """
    chosen = chosen_recipe(recipe, overrides)
    with open_model_file(src) as gguf:
        importance = read_importance(console, imatrix, read_hparams(gguf))
    if dry_run:
        _print_plan(console, src, out, chosen, allow_requantize, as_json)
        return
    if not resume:
        tell_of_partials(console, Path(out))
    start = time.perf_counter()
    with Quantizer(threads) as encode, console.byte_progress() as progress:
        summary = quantize_gguf(
            src,
            out,
            chosen,
            encode,
            imatrix=importance,
            edits=MetadataEdits(changed, removed),
            allow_requantize=allow_requantize,
            resume=resume,
            progress=progress,
        )
    _tell_result(console, out, summary, time.perf_counter() - start, as_json)


def _print_plan(
    console: Console, src: str, out: str, recipe: Recipe, allow_requantize: bool, as_json: bool
) -> None:
    with open_model_file(src) as gguf:
        planned = plan(gguf, read_hparams(gguf), recipe, allow_requantize=allow_requantize)
    tensors = [
        {
            "name": tensor.source.name,
            "source": tensor.source.type_name,
            "type": TYPES[tensor.type].name,
            "n_bytes": tensor.n_bytes,
        }
        for tensor in planned
    ]
    n_bytes = sum(tensor.n_bytes for tensor in planned)
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(out))).free
    if as_json:
        console.json({"n_bytes": n_bytes, "free": free, "tensors": tensors})
        return
    width = max(len(tensor.source.name) for tensor in planned)
    for row in tensors:
        console.answer(
            "{name:{width}}  {source:>6} -> {type:6}  {n_bytes:>14,} bytes\n".format(
                width=width, **row
            )
        )
    fits = "which fits" if n_bytes < free else "which does NOT fit"
    console.answer(f"{format_gb(n_bytes)} of tensors, {fits}: {format_gb(free)} are free there\n")


def _tell_result(
    console: Console, out: str, summary: QuantizeSummary, seconds: float, as_json: bool
) -> None:
    with open_gguf(out) as gguf:
        n_bits = 8 * sum(tensor.n_bytes for tensor in gguf.tensors.values())
        n_values = sum(math.prod(tensor.shape) for tensor in gguf.tensors.values())
    bits_per_weight, n_bytes = n_bits / n_values, os.path.getsize(out)
    if as_json:
        console.json(
            {
                "n_bytes": n_bytes,
                "bits_per_weight": bits_per_weight,
                "seconds": seconds,
                "resumed": summary.n_resumed,
                "tensors": [asdict(result) for result in summary.tensors],
            }
        )
        return
    resumed = f", {summary.n_resumed} tensors from an earlier run" if summary.n_resumed else ""
    console.note(
        f"{out}: {format_gb(n_bytes)}, {bits_per_weight:.2f} bits per weight, {seconds:.1f} s"
        f"{resumed}"
    )
    for result in sorted(summary.tensors, key=lambda result: -result.relative_error)[:N_WORST]:
        console.note(f"{result.name} {result.type}: relative error {result.relative_error:.2%}")
