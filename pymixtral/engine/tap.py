"""Taps: what goes into a model's matrices, and what the router chose, shown to Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pymixtral._cengine import ffi
from pymixtral.engine.handle import this_thread


@dataclass(frozen=True, slots=True)
class TapEvent:
    """Rows that went into one matrix; the arrays are copies.

    Attributes:
        role, layer, expert: which matrix (`ce_role`); gate stands for gate and up, q for q, k, v.
        x: (n_rows, n_cols) float32, the matrix's inputs.
        item, position: (n_rows,), each row's index in the batch, and its position in the session.
        chosen, chosen_weight: (n_rows, n_used), the router's experts, best first, and their
            weights; None but for the router (role FFN_GATE_INP).
    """

    role: int
    layer: int
    expert: int
    x: NDArray[np.float32]
    item: NDArray[np.int32]
    position: NDArray[np.int32]
    chosen: NDArray[np.int32] | None
    chosen_weight: NDArray[np.float32] | None


@ffi.def_extern()  # type: ignore[untyped-decorator]
def ce_tap_to_python(user: Any, event: Any) -> None:
    def copied(pointer: Any, dtype: type, *shape: int) -> NDArray[Any]:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(ffi.buffer(pointer, n_bytes), dtype).reshape(shape).copy()

    n_rows, n_used = event.n_rows, event.n_used
    shown = TapEvent(
        role=event.role,
        layer=event.layer,
        expert=event.expert,
        x=copied(event.x, np.float32, n_rows, event.n_cols),
        item=copied(event.item, np.int32, n_rows),
        position=copied(event.position, np.int32, n_rows),
        chosen=copied(event.chosen, np.int32, n_rows, n_used) if n_used else None,
        chosen_weight=copied(event.chosen_weight, np.float32, n_rows, n_used) if n_used else None,
    )
    this_thread.in_tap = True
    try:
        ffi.from_handle(user)(shown)
    finally:
        this_thread.in_tap = False
