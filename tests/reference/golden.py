"""The golden files: logits that transformers computed for the tiny random models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from reference.tiny import TINY_MODELS, TinyModel

MAX_DIFFERENCE = 1e-4  # between float32 engines; measured ones stay under 3e-5


@dataclass(frozen=True)
class Golden:
    """One golden file and the model it belongs to."""

    model: TinyModel
    ids: NDArray[np.int32]  # (T,)
    positions: NDArray[np.int64]  # (n,): those of `ids` whose logits are kept
    logits: NDArray[np.float32]  # (n, n_vocab)

    def difference(self, logits: NDArray[np.floating]) -> float:
        """The largest absolute difference to `logits` (n, n_vocab)."""
        return float(np.abs(logits - self.logits).max())


def golden_path(name: str) -> Path:
    return Path(__file__).parents[1] / "golden" / f"{name}.npz"


def load_golden(name: str) -> Golden:
    """The golden file of the tiny model of that name."""
    with np.load(golden_path(name), allow_pickle=False) as arrays:
        return Golden(TINY_MODELS[name], **arrays)
