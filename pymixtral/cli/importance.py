"""--imatrix: an importance matrix, and what is to be said about it."""

from __future__ import annotations

import click

from pymixtral.cli.console import Console
from pymixtral.formats.hparams import HParams
from pymixtral.formats.imatrix import ImportanceMatrix, read_imatrix

imatrix_option = click.option(
    "--imatrix", metavar="FILE", help="Importance matrix, of `pymixtral imatrix` or of llama.cpp."
)


def read_importance(console: Console, path: str | None, model: HParams) -> ImportanceMatrix | None:
    """The matrix in that file, with a warning where it says nothing of a matrix of the model."""
    if path is None:
        return None
    importance = read_imatrix(path, model.n_experts)
    if importance.unseen:
        console.warning(
            f"{path}: {len(importance.unseen)} matrices were never used by its text, and get the "
            f"mean of their tensor's others: {', '.join(importance.unseen)}"
        )
    if lacks := importance.lacks(model):
        console.warning(
            f"{path}: has nothing for {len(lacks)} of the model's tensors, in which all columns "
            f"count alike: {', '.join(lacks)}"
        )
    return importance
