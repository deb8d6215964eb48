"""`pymixtral diff`: how far two files of one model are apart."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from pymixtral.cli.console import Console
from pymixtral.cli.model import loaded
from pymixtral.cli.options import LoadOptions, console_options, load_options, shared
from pymixtral.cli.text import read_file
from pymixtral.divergence import Divergence, divergence
from pymixtral.engine import default_threads, dequantize_rows
from pymixtral.formats.diff import FileDifference, compare
from pymixtral.formats.gguf_shards import open_model_file


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option(
    "--text", metavar="FILE", help="Compare what the models make of this text as well ('-': stdin)."
)
@load_options(n_ctx={"default": 512, "help": "Length of a chunk of the text."})
@shared("as_json")
@console_options
def command(
    console: Console, a: str, b: str, text: str | None, load: LoadOptions, as_json: bool
) -> None:
    """Compare the models in the files A and B, such as an original and a quantized one.

    For each tensor: the relative error of B (root mean square), and the cosine. With --text, for
    the tokens that `pymixtral perplexity` scores: both perplexities, the mean Kullback-Leibler
    divergence of B's next-token distributions from A's, and how often both find the same token
    likeliest. Both models are in memory then.

    With --json: {tensors [{name, type_a, type_b, relative_error, cosine}], shapes {name: [of A, of
    B]}, only_in_a, only_in_b, text (null without --text) {a, b {perplexity, stderr, n_tokens}, kl,
    kl_stderr, kl_max, same_top}}.

    \b
    Examples:
      pymixtral diff mixtral-F16.gguf mixtral-Q4_K_M.gguf
      pymixtral diff mixtral-F16.gguf mixtral-Q4_K_M.gguf --text wiki.test.raw --ctx 512
    """
    with (
        open_model_file(a) as file_a,
        open_model_file(b) as file_b,
        console.byte_progress() as progress,
    ):
        threads = load.threads or default_threads()
        found = compare(file_a, file_b, dequantize_rows, progress, threads=threads)
    if not as_json:
        _print_files(console, found)
    on_text = None if text is None else _on_text(console, a, b, read_file(text), load)
    if as_json:
        document: dict[str, Any] = asdict(found)
        console.json(document | {"text": None if on_text is None else asdict(on_text)})
    elif on_text is not None:
        _print_text(console, on_text)


def _on_text(console: Console, a: str, b: str, text: str, load: LoadOptions) -> Divergence:
    with (
        loaded(console, a, load) as llm_a,
        loaded(console, b, load) as llm_b,
        console.progress("chunk") as progress,
    ):
        return divergence(llm_a, llm_b, text, llm_a.n_ctx, progress)


def _print_files(console: Console, found: FileDifference) -> None:
    width = max((len(tensor.name) for tensor in found.tensors), default=0)
    for tensor in found.tensors:
        error = "-" if tensor.relative_error is None else f"{tensor.relative_error:.3e}"
        cosine = "-" if tensor.cosine is None else f"{tensor.cosine:.6f}"
        console.answer(
            f"{tensor.name:{width}}  {tensor.type_a:>7} {tensor.type_b:>7}  "
            f"error {error:>9}  cosine {cosine}\n"
        )
    for name, (shape_a, shape_b) in found.shapes.items():
        console.answer(f"{name}: shape {shape_a} in A, {shape_b} in B\n")
    for which, names in (("A", found.only_in_a), ("B", found.only_in_b)):
        for name in names:
            console.answer(f"{name}: only in {which}\n")


def _print_text(console: Console, found: Divergence) -> None:
    for which, of in (("A", found.a), ("B", found.b)):
        console.answer(f"perplexity of {which}: {of.perplexity:.4f} +/- {of.stderr:.4f}\n")
    console.answer(
        f"KL divergence of B from A: {found.kl:.6f} +/- {found.kl_stderr:.6f} nats, "
        f"at most {found.kl_max:.4f}\n"
        f"same likeliest token: {found.same_top:.2%} of {found.a.n_tokens} tokens\n"
    )
