"""Repacked weights: another layout, the same results to the bit."""

from __future__ import annotations

from contextlib import closing
from hashlib import sha256

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.tiny import random_ids
from reference.tiny_engine import BLOCK_MODEL, tiny_engine, tiny_tensors

from pymixtral import LLM, SamplingParams
from pymixtral.engine import (
    TENSOR_TYPES,
    Engine,
    EngineOptions,
    Phase,
    repack_rows,
    repack_version,
    tiers,
)
from pymixtral.errors import ParameterError
from pymixtral.formats.blocks import row_bytes

# Packed files keep the layout: one that changes needs another number, and other digests here.
VERSION = 2
DIGESTS = {
    "Q4_0": "83ae3a608d7c1f226fcb777cd74e53239bd69e460060be75c92efa43737ddfc4",
    "Q4_1": "b075ff01abd15b8fe599e801a5af9d7587121f22a6391c69bd34bbe6d4d4dd4a",
    "Q5_0": "04b31b7ae6628a9336dcade6aab6549b60c497d3cc4055345043c5db47454b50",
    "Q5_1": "6627a28a580ed01b392fa296dd7f2ba65893800915fb0adc83c4bedf275e64e4",
    "Q8_0": "8cd463ffd7b028c15feafbca01de1e60f29b3adc4e6033a16890e3376b6bd742",
    "Q2_K": "a371f323ce273f427fdeab789baf35a35dc3d1cfb2233678ac0a72c496622e75",
    "Q3_K": "fd6933f5c95363ccc3689cfc5b30a4fe628c4c62f86a83aff26d759921ecf15e",
    "Q4_K": "898f21117a1752cb71e28fec4c05ce051d036c5aaf9f8a7710497ff4e334a8e9",
    "Q5_K": "09c3f1486c4e43bab110d842969a055cfa29bf2ec5422213431a2d79f99a76b8",
    "Q6_K": "1bf12bef1352ec86e2608a895c16d2f21137ed29d658eb5f8ccdae2aad136035",
    "IQ4_NL": "83ae3a608d7c1f226fcb777cd74e53239bd69e460060be75c92efa43737ddfc4",
    "IQ4_XS": "91145b6b2574513dca633d35a95d22d328a2189c91d854b098c78aa2e15527a3",
}
REPACKED_TYPES = tuple(DIGESTS)
SIMD_TIERS = [name for name, supported in tiers().items() if supported and name != "generic"]
IDS = random_ids(BLOCK_MODEL, 41)


def logits(engine: Engine, phase: Phase) -> NDArray[np.float32]:
    return engine.session(64).eval(IDS, phase, n_logits=len(IDS))


@pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.name.lower())
@pytest.mark.parametrize("tier", SIMD_TIERS)
@pytest.mark.parametrize("type_name", REPACKED_TYPES)
def test_results_are_those_of_the_files_layout(type_name: str, tier: str, phase: Phase) -> None:
    options = EngineOptions(threads=3, tier=tier)
    with closing(tiny_engine(type_name=type_name, options=options)) as as_in_the_file:
        expected = logits(as_in_the_file, phase)
    tensors = tiny_tensors(type_name=type_name)
    with closing(Engine(BLOCK_MODEL, tensors, options)) as engine:
        repacked = [tensor for tensor in tensors if engine.repack(tensor) > 0]
        assert len(repacked) == 7 * BLOCK_MODEL.n_layers
        for tensor in repacked:
            tensor.data[:] = bytes(len(tensor.data))  # no longer read
        assert logits(engine, phase).tobytes() == expected.tobytes()
        assert [engine.repack(tensor) for tensor in repacked] == [0] * len(repacked)


@pytest.mark.parametrize(("type_name", "tier"), [("IQ2_XS", SIMD_TIERS[-1]), ("Q4_K", "generic")])
def test_what_has_no_other_layout_stays(type_name: str, tier: str) -> None:
    tensors = tiny_tensors(type_name=type_name)
    with closing(Engine(BLOCK_MODEL, tensors, EngineOptions(tier=tier))) as engine:
        assert [engine.repack(tensor) for tensor in tensors] == [0] * len(tensors)
        assert np.isfinite(logits(engine, Phase.PROMPT)).all()


def test_a_model_is_repacked_while_it_is_loaded() -> None:
    params = SamplingParams(max_tokens=20, seed=1)
    told = []
    with LLM() as plain, LLM(repack=True, progress=lambda *step: told.append(step)) as repacked:
        assert repacked.generate("Once", params).text == plain.generate("Once", params).text
        assert [name for name, _, _ in told] == list(plain.file.gguf.tensors)
        done = [n_done for _, n_done, _ in told]
        assert done == sorted(done)
        assert done[-1] == told[-1][2] == plain.file.weight_bytes


@pytest.mark.parametrize("type_name", REPACKED_TYPES)
def test_a_version_of_the_layout_stays_as_it_is(type_name: str) -> None:
    """Of 48 rows of 768 columns: groups, pairs of spans and one without a second."""
    type_id = TENSOR_TYPES[type_name]
    rows = np.random.RandomState(7).bytes(48 * row_bytes(type_id, 768))
    out = np.zeros(len(rows), np.uint8)
    repack_rows(memoryview(rows), type_id, 768, out)
    assert sorted(out.tobytes()) == sorted(rows)
    assert (repack_version(), sha256(out).hexdigest()) == (VERSION, DIGESTS[type_name])


def test_weights_in_memory_are_not_copied() -> None:
    with pytest.raises(ParameterError, match="repack needs the file mapped"):
        LLM(repack=True, use_mmap=False)
