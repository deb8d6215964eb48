"""`pymixtral experts`: which experts of a mixture fire for a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from pymixtral.cli.console import Console
from pymixtral.cli.heat_map import draw
from pymixtral.cli.model import loaded
from pymixtral.cli.options import LoadOptions, console_options, load_options, shared
from pymixtral.cli.plot import check_plot
from pymixtral.cli.text import read_argument, split_model
from pymixtral.experts import ExpertUse, find_experts
from pymixtral.formats.errors import one_line

WIDTH = 80  # columns of a table
PIECE_WIDTH = 14
EXPERTS_PER_BLOCK = 8

# Shades of a share, from none to twice what each expert would get if all were alike.
SHADES = " ░▒▓█"


@click.command("experts")
@click.argument("arguments", nargs=-1, required=True, metavar="[MODEL] TEXT")
@click.option("--chat", is_flag=True, help="Put TEXT into the chat template, as a question.")
@shared("chat_template")
@click.option("--tokens", "with_tokens", is_flag=True, help="List each token's experts, too.")
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Draw a heat map: PNG, SVG or PDF, by the name's ending.",
)
@load_options()
@shared("as_json")
@console_options
def command(
    console: Console,
    arguments: tuple[str, ...],
    chat: bool,
    chat_template: str | None,
    with_tokens: bool,
    picture: str | None,
    load: LoadOptions,
    as_json: bool,
) -> None:
    """Show which experts fire while the model reads TEXT.

    In each layer of a mixture of experts a router sends a token to a few of the experts (in Mixtral
    to 2 of 8) and weighs their outputs. The table has each expert's share of a layer's choices.
    "-" reads TEXT from stdin, less one newline at its end.

    With --json: {n_experts, n_used, shares [layer][expert], tokens [{id, piece, experts [layer]
    [chosen, best first], weights [layer][chosen]}]}.

    \b
    Examples:
      pymixtral experts "Once upon a time there was a fox."
      pymixtral experts mixtral.gguf --tokens "def f(x): return x + 1"
      pymixtral experts mixtral.gguf --chat "Why is the sky blue?" --plot experts.png
      pymixtral experts mixtral.gguf --json - < essay.txt | jq .shares
    """
    model, text = split_model(arguments, "text")
    text = read_argument(text)
    if picture:
        check_plot(picture)
    with loaded(console, model, load, chat_template) as llm:
        if chat:
            ids = llm.encode_chat([{"role": "user", "content": text}])
        else:
            ids = llm.tokenize(text, llm.tokenizer.add_bos)
        with console.status("reading the text"):
            use = find_experts(llm, ids)
        pieces = [llm.tokenizer.piece(token_id) for token_id in ids]
        name = llm.file.name
    if as_json:
        console.json(_document(ids, pieces, use))
    else:
        for line in _tables(pieces, use, with_tokens):
            console.answer(line.rstrip() + "\n")
    if picture:
        with console.status("drawing"):
            draw(picture, name, pieces, use)
        console.note(f"wrote {picture}")


def _document(ids: Sequence[int], pieces: Sequence[str], use: ExpertUse) -> dict[str, Any]:
    tokens = zip(ids, pieces, use.chosen.tolist(), use.weight.tolist(), strict=True)
    return {
        "n_experts": use.n_experts,
        "n_used": use.chosen.shape[2],
        "shares": use.shares().tolist(),
        "tokens": [
            {"id": token_id, "piece": piece, "experts": experts, "weights": weights}
            for token_id, piece, experts, weights in tokens
        ],
    }


# ---- Tables ----


def _tables(pieces: Sequence[str], use: ExpertUse, with_tokens: bool) -> Iterator[str]:
    n_tokens, _, n_used = use.chosen.shape
    even = 100 / use.n_experts
    yield f"{n_tokens} tokens, {n_used} of {use.n_experts} experts for each in every layer."
    yield f"Share of a layer's choices in %; {even:.1f} if all experts were alike:"
    yield from _share_table(use.shares())
    if with_tokens:
        yield ""
        yield "Experts of each token, best first:"
        yield from _token_table(pieces, use.chosen)


def _share_table(shares: NDArray[np.float64]) -> Iterator[str]:
    """A block of lines for every eight experts."""
    n_experts = shares.shape[1]
    for first in range(0, n_experts, EXPERTS_PER_BLOCK):
        experts = range(first, min(first + EXPERTS_PER_BLOCK, n_experts))
        yield ""
        yield "layer  " + "".join(f"{f'expert {e}' if e == first else e:>9}" for e in experts)
        for layer, row in enumerate(shares):
            yield f"{layer:>5}  " + "".join(_cell(float(row[e]), n_experts) for e in experts)


def _cell(share: float, n_experts: int) -> str:
    """9 columns: a shade and the percentage."""
    shade = SHADES[min(round(share * n_experts * 2), len(SHADES) - 1)]
    return f"  {shade}{shade}{share:5.0%}"


def _token_table(pieces: Sequence[str], chosen: NDArray[np.int32]) -> Iterator[str]:
    """A line for each token, with as many layers as fit beside it; then those that follow."""
    names = [[",".join(map(str, experts)) for experts in layers] for layers in chosen.tolist()]
    width = 1 + max(len(name) for layers in names for name in layers)
    n_layers = chosen.shape[1]
    n_fitting = (WIDTH - PIECE_WIDTH) // width
    for first in range(0, n_layers, n_fitting):
        layers = range(first, min(first + n_fitting, n_layers))
        yield ""
        yield f"{'layer':{PIECE_WIDTH}}" + "".join(f"{layer:>{width}}" for layer in layers)
        for piece, name in zip(pieces, names, strict=True):
            row = "".join(f"{name[layer]:>{width}}" for layer in layers)
            yield f"{one_line(piece)[: PIECE_WIDTH - 1]:{PIECE_WIDTH}}" + row
