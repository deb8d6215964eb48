"""The layout of December 2023, a tensor for each expert: it runs, as the merged layout does."""

from __future__ import annotations

import mmap
from pathlib import Path

import gguf
import numpy as np
import pytest
from reference.tiny import TINY_MODELS, per_expert, random_ids, random_weights
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM, Phase
from pymixtral.formats import FormatError, open_gguf, read_hparams
from pymixtral.formats.blocks import TypeId, quantize
from pymixtral.formats.expert_layout import ExpertLayout
from pymixtral.formats.gguf_split import merge_gguf
from pymixtral.formats.gguf_writer import GGUFWriter
from pymixtral.formats.imatrix import ImportanceMatrix
from pymixtral.formats.quantize import quantize_gguf
from pymixtral.formats.recipes import RECIPES
from pymixtral.loader import shipped_model
from pymixtral.quantizer import Quantizer

MODEL = TINY_MODELS["two-share"]
IDS = random_ids(MODEL, 24).tolist()


def logits(path: Path, phase: Phase) -> np.ndarray:
    with LLM(path) as llm:
        return llm.logits(IDS, phase)


def with_types(source: Path, path: Path, types: dict[str, TypeId]) -> Path:
    """A copy of a float32 file in which the tensors whose names end so have other types."""
    with open_gguf(source) as file, GGUFWriter(path) as writer:
        for key, value in file.metadata.items():
            writer.add(key, value, file.types[key])
        chosen = {
            name: next((kind for end, kind in types.items() if name.endswith(end)), TypeId.F32)
            for name in file.tensors
        }
        for name, kind in chosen.items():
            writer.declare(name, kind, file.tensors[name].shape)
        for name, kind in chosen.items():
            writer.write(name, quantize(file.array(name), kind))
    return path


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "merged.gguf", MODEL, random_weights(MODEL))


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "apart.gguf", MODEL, per_expert(random_weights(MODEL)))


@pytest.mark.parametrize("phase", Phase)
def test_logits_are_those_of_the_merged_file(merged: Path, apart: Path, phase: Phase) -> None:
    np.testing.assert_array_equal(logits(apart, phase), logits(merged, phase))


def test_experts_in_any_order(merged: Path, tmp_path: Path) -> None:
    backwards = dict(reversed(per_expert(random_weights(MODEL)).items()))
    path = write_tiny_gguf(tmp_path / "backwards.gguf", MODEL, backwards)
    np.testing.assert_array_equal(logits(path, Phase.PROMPT), logits(merged, Phase.PROMPT))


@pytest.mark.parametrize("phase", Phase)
def test_router_in_half_precision(tmp_path: Path, merged: Path, apart: Path, phase: Phase) -> None:
    types = {"ffn_gate_inp.weight": TypeId.F16}
    half = [with_types(path, tmp_path / f"{path.stem}-half", types) for path in (merged, apart)]
    np.testing.assert_array_equal(*(logits(path, phase) for path in half))


def test_experts_of_several_types(tmp_path: Path, merged: Path, apart: Path) -> None:
    """The first quantizers chose types by a tensor's place in the file, layers aside."""
    types = {"ffn_up.1.weight": TypeId.Q8_0, "ffn_down.2.weight": TypeId.F16}
    mixed = with_types(apart, tmp_path / "mixed.gguf", types)
    found, exact = logits(mixed, Phase.PROMPT), logits(merged, Phase.PROMPT)
    error = np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2))
    assert 0 < error < 0.025  # int8 costs 0.02; an expert read as of another type, 1
    with pytest.raises(FormatError, match=r"ffn_up.1.weight: is Q8_0, .*ffn_up.0.weight is F32"):
        merge_gguf(mixed, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_tensors_stay_mapped(apart: Path) -> None:
    with open_gguf(apart) as file:
        assert all(isinstance(file.data(name).obj, mmap.mmap) for name in file.tensors)


def test_merging_gives_the_merged_file(tmp_path: Path, merged: Path, apart: Path) -> None:
    out = tmp_path / "out.gguf"
    merge_gguf(apart, out)
    assert out.read_bytes() == merged.read_bytes()


def test_there_and_back(tmp_path: Path) -> None:
    """With the shipped model, whose blocks are quantized; the gguf package reads what we write."""
    apart, back = tmp_path / "apart.gguf", tmp_path / "back.gguf"
    merge_gguf(shipped_model(), apart, ExpertLayout.PER_EXPERT)
    merge_gguf(apart, back)
    assert back.read_bytes() == shipped_model().read_bytes()

    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(apart).tensors}
    whole = {tensor.name: tensor for tensor in gguf.GGUFReader(shipped_model()).tensors}
    expert = theirs["blk.2.ffn_up.5.weight"]
    assert expert.tensor_type == whole["blk.2.ffn_up_exps.weight"].tensor_type
    np.testing.assert_array_equal(expert.data, whole["blk.2.ffn_up_exps.weight"].data[5])
    with LLM(apart) as one, LLM() as other:
        ids = one.tokenize("Once upon a time there was a fox", add_bos=True)
        np.testing.assert_array_equal(one.logits(ids), other.logits(ids))


def test_quantizing_gives_each_expert_what_merged_ones_get(tmp_path: Path) -> None:
    """Types by the layer's number, and each expert by its own row of the importance matrix."""
    apart = tmp_path / "apart.gguf"
    merge_gguf(shipped_model(), apart, ExpertLayout.PER_EXPERT)
    random = np.random.RandomState(0)
    with open_gguf(shipped_model()) as file:
        n_cols = {n: (read_hparams(file).n_experts, t.shape[-1]) for n, t in file.tensors.items()}
    importance = ImportanceMatrix(
        {
            name: random.uniform(0.1, 4, shape).astype(np.float32)
            for name, shape in n_cols.items()
            if "_exps" in name
        }
    )
    for source, out in ((apart, "a.gguf"), (shipped_model(), "b.gguf")):
        with Quantizer(2) as encode:
            quantize_gguf(
                source,
                tmp_path / out,
                RECIPES["q3_k_m"],
                encode,
                imatrix=importance,
                allow_requantize=True,
            )
    merge_gguf(tmp_path / "a.gguf", tmp_path / "merged.gguf")
    assert (tmp_path / "merged.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


# ---- Files that are refused ----


def refusal(path: Path) -> FormatError:
    with open_gguf(path) as file, pytest.raises(FormatError) as caught:
        read_hparams(file)
    return caught.value


@pytest.mark.parametrize(
    ("change", "field", "what"),
    [
        ({"blk.1.ffn_up.3.weight": None}, "blk.1.ffn_up.3.weight", "is missing"),
        ({"blk.0.ffn_gate.8.weight": (112, 64)}, "blk.0.ffn_gate.8.weight", "does not belong"),
        ({"blk.2.ffn_gate.0.weight": (112, 64)}, "blk.2.ffn_gate.0.weight", "does not belong"),
        ({"blk.0.ffn_gate.2.weight": (64, 112)}, "blk.0.ffn_gate.2.weight", "must have (112, 64)"),
        ({"blk.0.ffn_up_exps.weight": (8, 112, 64)}, "blk.0.ffn_up_exps.weight", "hold one"),
        ({"blk.0.ffn_gate.02.weight": (112, 64)}, "blk.0.ffn_gate.02.weight", "not understood"),
    ],
)
def test_files_that_contradict_themselves(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], field: str, what: str
) -> None:
    weights = per_expert(random_weights(MODEL))
    for name, shape in change.items():
        if shape is None:
            del weights[name]
        else:
            weights[name] = np.zeros(shape, np.float32)
    error = refusal(write_tiny_gguf(tmp_path / "bad.gguf", MODEL, weights))
    assert error.field == f"tensor {field}"
    assert what in error.what


def test_a_single_expert_in_a_merged_file(tmp_path: Path) -> None:
    weights = random_weights(MODEL)
    weights["blk.0.ffn_up.0.weight"] = weights["blk.0.ffn_up_exps.weight"][0]
    error = refusal(write_tiny_gguf(tmp_path / "both.gguf", MODEL, weights))
    assert error.field == "tensor blk.0.ffn_gate_exps.weight"
    assert "hold one expert each" in error.what


def test_a_single_expert_in_a_dense_model(tmp_path: Path) -> None:
    dense = TINY_MODELS["dense"]
    weights = random_weights(dense)
    weights["blk.0.ffn_up.0.weight"] = weights["blk.0.ffn_up.weight"]
    error = refusal(write_tiny_gguf(tmp_path / "dense.gguf", dense, weights))
    assert error.field == "tensor blk.0.ffn_up.0.weight"
