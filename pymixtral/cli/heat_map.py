"""A picture of which experts fire: tokens from left to right, layers from top to bottom."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pymixtral.experts import ExpertUse
from pymixtral.formats.errors import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = "magma_r"
BAR_COLOUR = "#7b2d8b"
MAX_NAMED_TOKENS = 100  # more cannot be read
MAX_NUMBERED_ROWS = 128
MAX_INCHES = 18.0  # a real Mixtral has 256 rows, which stay 8 pixels high
# How sentencepiece, and byte-level vocabularies, write a space inside a token.
WRITTEN_SPACES = "\u2581\u0120"


def draw(path: str, name: str, pieces: Sequence[str], use: ExpertUse) -> None:
    """Write the picture.

    Args:
        path: where to, see `check_plot`.
        name: of the model.
        pieces: the tokens.
        use: their experts.
    """
    from matplotlib.figure import Figure

    n_tokens, n_layers, n_used = use.chosen.shape
    n_rows = n_layers * use.n_experts
    figure = Figure(
        figsize=(min(4 + 0.22 * n_tokens, MAX_INCHES), min(2.5 + 0.13 * n_rows, MAX_INCHES)),
        layout="constrained",
        dpi=120,
    )
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    weights = use.weight_of_all().reshape(n_tokens, n_rows).T
    chosen = np.where(weights > 0, weights, np.nan)  # what is not chosen stays white
    image = left.imshow(chosen, aspect="auto", cmap=COLOURS, vmin=0, vmax=1)
    _name_tokens(left, pieces)
    _name_layers(left, n_layers, use.n_experts)
    right.barh(np.arange(n_rows), 100 * use.shares().ravel(), height=0.8, color=BAR_COLOUR)
    right.axvline(100 / use.n_experts, color="black", linewidth=0.8, linestyle="--")
    right.tick_params("y", length=0)
    right.set_xlabel("% of choices\n(dashed: even)")
    for boundary in range(1, n_layers):
        for axes in (left, right):
            axes.axhline(boundary * use.n_experts - 0.5, color="grey", linewidth=0.6)
    left.set_title(
        f"{name}: {n_used} of {use.n_experts} experts fire for each token", parse_math=False
    )
    figure.colorbar(image, ax=right, label="weight that the router gives", pad=0.08)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a token that the font cannot show
        figure.savefig(path)


def _name_tokens(axes: Axes, pieces: Sequence[str]) -> None:
    if len(pieces) > MAX_NAMED_TOKENS:
        axes.set_xlabel("token")
        return
    labels = [one_line(piece.strip(WRITTEN_SPACES) or piece) for piece in pieces]
    axes.set_xticks(
        range(len(pieces)), labels, rotation=90, family="monospace", fontsize=8, parse_math=False
    )


def _name_layers(axes: Axes, n_layers: int, n_experts: int) -> None:
    middles = np.arange(n_layers) * n_experts + (n_experts - 1) / 2
    numbers = axes.secondary_yaxis(0)
    numbers.set_yticks(middles, [f"layer {layer}" for layer in range(n_layers)])
    numbers.tick_params(length=0, pad=18)
    n_rows = n_layers * n_experts
    axes.set_yticks(range(n_rows), [str(row % n_experts) for row in range(n_rows)], fontsize=6)
    axes.tick_params("y", length=0, labelleft=n_rows <= MAX_NUMBERED_ROWS)
