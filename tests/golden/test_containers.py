"""One tiny Mixtral in every container that `convert` and `merge` read: equal bytes, equal logits.

Its feed-forward is as wide as the model, so that no shape betrays weights that are taken for one
another: the mistakes below, which converters have made, show in the logits alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.golden import MAX_DIFFERENCE, load_golden
from reference.mutations import WIDE_MARGIN
from reference.tiny import per_expert, random_weights
from reference.tiny_checkpoints import CHECKPOINTS, write_checkpoint
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM
from pymixtral.formats import layouts, names, open_gguf
from pymixtral.formats.convert import convert
from pymixtral.formats.gguf_split import merge_gguf
from pymixtral.formats.layouts import Layout
from pymixtral.formats.names import TensorRole

GOLDEN = load_golden("no-sharing")  # logits of transformers
MODEL, WEIGHTS = GOLDEN.model, random_weights(GOLDEN.model)
CONTAINERS = [*CHECKPOINTS, "gguf", "gguf_per_expert"]

# The vocabulary is too small for byte tokens.
pytestmark = pytest.mark.filterwarnings("ignore:.*byte tokens are missing")


def converted(folder: Path, container: str) -> Path:
    """The model, from its container to a GGUF file in float32."""
    out = folder / "out.gguf"
    if container in CHECKPOINTS:
        convert(write_checkpoint(folder / "src", container, MODEL, WEIGHTS), out, "f32")
        return out
    weights = WEIGHTS if container == "gguf" else per_expert(WEIGHTS)
    merge_gguf(write_tiny_gguf(folder / "src.gguf", MODEL, weights), out)
    return out


def logits(path: Path) -> NDArray[np.float32]:
    """At the positions that the golden file keeps."""
    with LLM(path, n_ctx=MODEL.n_ctx_train, kv_type="f32") as llm:
        return llm.logits(GOLDEN.ids.tolist())[GOLDEN.positions]


@pytest.mark.parametrize("container", CONTAINERS)
def test_bytes_and_logits(tmp_path: Path, container: str) -> None:
    out = converted(tmp_path, container)
    with open_gguf(out) as gguf:
        assert set(gguf.tensors) == set(WEIGHTS)
        for name, weight in WEIGHTS.items():
            assert bytes(gguf.data(name)) == weight.tobytes(), name
    found = logits(out)
    assert GOLDEN.difference(found) <= MAX_DIFFERENCE
    direct = write_tiny_gguf(tmp_path / "direct.gguf", MODEL, WEIGHTS)
    np.testing.assert_array_equal(found, logits(direct))


def swap_up_and_down(patch: pytest.MonkeyPatch) -> None:
    for table in (names.HF_EXPERT_NAMES, names.MISTRAL_EXPERT_NAMES, names.MISTRAL_STACKED_NAMES):
        up, down = table[TensorRole.FFN_UP], table[TensorRole.FFN_DOWN]
        patch.setitem(table, TensorRole.FFN_UP, down)
        patch.setitem(table, TensorRole.FFN_DOWN, up)


def swap_gate_and_up(patch: pytest.MonkeyPatch) -> None:
    """Also of the packed layout, whose two halves they are."""
    other = {TensorRole.FFN_GATE: TensorRole.FFN_UP, TensorRole.FFN_UP: TensorRole.FFN_GATE}

    def swapped(layout: Layout) -> Layout:
        experts = layout.experts
        return replace(layout, experts=lambda role, *rest: experts(other.get(role, role), *rest))

    change_layouts(patch, swapped)


def confuse_rope_orders(patch: pytest.MonkeyPatch) -> None:
    change_layouts(patch, lambda layout: replace(layout, is_half_split=not layout.is_half_split))


def change_layouts(patch: pytest.MonkeyPatch, change: Callable[[Layout], Layout]) -> None:
    for name in ("HF", "HF_PACKED", "MISTRAL", "MISTRAL_STACKED"):
        patch.setattr(layouts, name, change(getattr(layouts, name)))


def leave_w2_transposed(patch: pytest.MonkeyPatch) -> None:
    load = layouts.Source.load
    patch.setattr(
        layouts.Source,
        "load",
        lambda source, tensors: load(replace(source, is_transposed=False), tensors),
    )


MISTAKES: list[tuple[Callable[[pytest.MonkeyPatch], None], list[str]]] = [
    (swap_up_and_down, ["hf", "original", "stacked"]),
    (swap_gate_and_up, list(CHECKPOINTS)),
    (confuse_rope_orders, list(CHECKPOINTS)),
    (leave_w2_transposed, ["stacked"]),
]


@pytest.mark.parametrize(
    ("mistake", "container"), [(mistake, kind) for mistake, kinds in MISTAKES for kind in kinds]
)
def test_mistakes_show(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[pytest.MonkeyPatch], None],
    container: str,
) -> None:
    mistake(monkeypatch)
    assert GOLDEN.difference(logits(converted(tmp_path, container))) > WIDE_MARGIN
