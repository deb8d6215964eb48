"""stories260K, a small trained model whose output others have published.

Its weights also serve as a mixture of experts: where all experts are equal, whatever the router
says, the outputs must be the dense model's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pymixtral import LLM, Phase, SamplingParams
from pymixtral.formats.gguf import GGUFFile, ValueType, open_gguf
from pymixtral.formats.gguf_writer import GGUFWriter
from pymixtral.perplexity import perplexity

DATA = Path(__file__).parents[1] / "data"
DENSE = DATA / "stories260K" / "stories260K-F32.gguf"
TEXT = (DATA / "tinystories_60k.txt").read_text(encoding="utf-8")
N_EXPERTS = 8

# Rounded to f16, keys and values that differ in their last bit can differ by 2^-11.
KV_TYPE = "f32"


@pytest.fixture(scope="module")
def dense() -> Iterator[LLM]:
    with LLM(DENSE, kv_type=KV_TYPE) as llm:
        yield llm


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """The dense model with its feed-forward as each of 8 experts, and a random router."""
    path = tmp_path_factory.mktemp("stories260K") / "experts.gguf"
    with open_gguf(DENSE) as source:
        write_experts(source, path)
    with LLM(path, kv_type=KV_TYPE) as llm:
        yield llm


def write_experts(source: GGUFFile, path: Path) -> None:
    random = np.random.RandomState(1)
    arrays = {}
    for name in source.tensors:
        array = source.array(name)
        if ".ffn_" in name and "norm" not in name:
            arrays[name.replace(".weight", "_exps.weight")] = np.stack([array] * N_EXPERTS)
        else:
            arrays[name] = array
        if "ffn_gate" in name:
            router = random.standard_normal((N_EXPERTS, array.shape[1]))
            arrays[name.replace("ffn_gate", "ffn_gate_inp")] = router.astype(np.float32)
    with GGUFWriter(path) as writer:
        for key, value in source.metadata.items():
            writer.add(key, value, source.types[key])
        writer.add("llama.expert_count", N_EXPERTS, ValueType.UINT32)
        writer.add("llama.expert_used_count", 2, ValueType.UINT32)
        for name, array in arrays.items():
            writer.declare(name, 0, array.shape)
        for name, array in arrays.items():
            writer.write(name, array.tobytes())


def test_greedy_text_is_the_published_one(dense: LLM) -> None:
    expected = json.loads((DENSE.parent / "greedy.json").read_text())
    out = dense.generate(expected["prompt_ids"], SamplingParams(temperature=0, max_tokens=256))
    assert out.token_ids == expected["ids"]
    assert out.text == expected["text"]


@pytest.mark.parametrize("phase", Phase)
def test_equal_experts_are_the_dense_model(dense: LLM, experts: LLM, phase: Phase) -> None:
    assert experts.file.hparams.n_experts == N_EXPERTS
    ids = dense.tokenize(TEXT, add_bos=True)[:500]
    difference = np.abs(dense.logits(ids, phase) - experts.logits(ids, phase))
    assert difference.max() <= 1e-4


def test_perplexity_against_llama_cpp(dense: LLM) -> None:
    result = perplexity(dense, TEXT, 256)
    assert result.perplexity == pytest.approx(3.9152, rel=0.0005)
    assert result.n_tokens == 14224


def test_perplexity_of_equal_experts(experts: LLM) -> None:
    assert perplexity(experts, TEXT, 256).perplexity == pytest.approx(3.9152, rel=0.0005)
