"""Importance matrices measured by the engine, against what transformers feeds its matrices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.golden import golden_path
from reference.tiny import TINY_MODELS, TinyModel, random_ids, random_weights
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM
from pymixtral.calibration import Calibrator
from pymixtral.errors import EngineError
from pymixtral.formats.imatrix import (
    Calibration,
    read_calibration,
    read_imatrix,
    write_calibration,
)

MODEL = TINY_MODELS["four-share"]


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    with np.load(golden_path("imatrix"), allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    with LLM(write_tiny_gguf(path, MODEL, random_weights(MODEL)), kv_type="f32") as llm:
        yield llm


def calibrated(
    llm: LLM, chunks: NDArray[np.int32], earlier: Calibration | None = None
) -> Calibration:
    calibrator = Calibrator(llm, list(chunks), "ids", earlier)
    assert list(calibrator.run())[-1:] == [len(chunks)]
    return calibrator.calibration


def test_sums_are_those_of_transformers(llm: LLM, golden: dict[str, NDArray[np.float32]]) -> None:
    found = calibrated(llm, golden["ids"])
    assert {f"{name}.in_sum2" for name in found.tensors} == {
        name for name in golden if name.endswith(".in_sum2")
    }
    for name, (squares, counts) in found.tensors.items():
        np.testing.assert_array_equal(counts, golden[f"{name}.counts"], err_msg=name)
        want = golden[f"{name}.in_sum2"]
        np.testing.assert_allclose(squares, want, rtol=1e-4, atol=1e-5, err_msg=name)
    assert (found.n_chunks, found.chunk_size, found.datasets) == (3, 24, ["ids"])


def test_a_dense_model(tmp_path: Path) -> None:
    dense = TINY_MODELS["dense"]
    path = write_tiny_gguf(tmp_path / "dense.gguf", dense, random_weights(dense))
    with pytest.warns(UserWarning, match="byte tokens are missing"), LLM(path) as llm:
        found = calibrated(llm, random_ids(dense, 32).reshape(2, 16))
    assert set(found.tensors) == {
        f"blk.{layer}.{name}.weight"
        for layer in range(dense.n_layers)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    assert all(counts.tolist() == [[32]] for _, counts in found.tensors.values())


def test_unseen_experts_are_told_and_get_the_mean(llm: LLM, tmp_path: Path) -> None:
    """Four tokens choose two of eight experts each: some are left out."""
    found = calibrated(llm, random_ids(MODEL, 4)[None])
    path = tmp_path / "few.imatrix"
    write_calibration(path, found)
    matrix = read_imatrix(path)
    name = "blk.1.ffn_down_exps.weight"
    squares, counts = found.tensors[name]
    unseen = np.flatnonzero(counts[:, 0] == 0)
    assert 0 < len(unseen) < MODEL.n_experts
    assert [f"{name}, expert {expert}" for expert in unseen] == [
        one for one in matrix.unseen if one.startswith(name)
    ]
    seen = counts[:, 0] > 0
    mean = (squares[seen] / counts[seen]).mean(axis=0)
    for expert in unseen:
        np.testing.assert_allclose(matrix.columns[name][expert], mean / mean.mean(), rtol=1e-5)


@pytest.mark.parametrize("n_before", [1, 3])
def test_a_resumed_run_gives_the_same_bytes(llm: LLM, tmp_path: Path, n_before: int) -> None:
    chunks = random_ids(MODEL, 64).reshape(4, 16)
    write_calibration(tmp_path / "whole", calibrated(llm, chunks))
    write_calibration(tmp_path / "part", calibrated(llm, chunks[:n_before]))
    earlier = read_calibration(tmp_path / "part")
    write_calibration(tmp_path / "resumed", calibrated(llm, chunks, earlier))
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_another_calibration_is_not_gone_on_with(llm: LLM) -> None:
    chunks = random_ids(MODEL, 64).reshape(4, 16)
    earlier = calibrated(llm, chunks[:2])
    for others in (chunks[::-1], chunks.reshape(2, 32), chunks[:1]):
        with pytest.raises(ValueError, match="not of this model"):
            Calibrator(llm, list(others), "ids", earlier)


def test_inputs_that_are_no_numbers(tmp_path: Path) -> None:
    dense = TinyModel(2, 1, 16, 32, 32, 0, 0, 300)
    weights = random_weights(dense)
    weights["blk.0.ffn_up.weight"][:] = 3e38
    path = write_tiny_gguf(tmp_path / "dense.gguf", dense, weights)
    with LLM(path) as llm, pytest.raises(EngineError, match="no finite numbers"):
        calibrated(llm, random_ids(dense, 8)[None])
