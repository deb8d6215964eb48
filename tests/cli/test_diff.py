"""`diff`: tensors against numpy, the text against a plain restatement, what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from reference.tiny import TINY_MODELS, random_weights
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM
from pymixtral.cli.main import program
from pymixtral.perplexity import perplexity

TEXT = Path(__file__).parents[1] / "data" / "tinystories_60k.txt"


@pytest.fixture(scope="module")
def q4(tmp_path_factory: pytest.TempPathFactory, storyteller: Path) -> Path:
    out = tmp_path_factory.mktemp("q4") / "q4.gguf"
    args = ["quantize", str(storyteller), str(out), "q4_0", "--allow-requantize"]
    assert CliRunner().invoke(program, args).exit_code == 0
    return out


def test_tensors(invoke, tmp_path: Path) -> None:
    model = TINY_MODELS["four-share"]
    weights = random_weights(model)
    a = write_tiny_gguf(tmp_path / "a.gguf", model, weights)
    name = "blk.1.ffn_up_exps.weight"
    noise = np.random.default_rng(0).standard_normal(weights[name].shape).astype(np.float32)
    changed = weights | {name: weights[name] + noise / 8}
    b = write_tiny_gguf(tmp_path / "b.gguf", model, changed)
    found = json.loads(invoke("diff", a, b, "--json").stdout)
    assert [tensor["name"] for tensor in found["tensors"]] == list(weights)
    for tensor in found["tensors"]:
        x, y = (w[tensor["name"]].astype(np.float64).ravel() for w in (weights, changed))
        error = np.linalg.norm(x - y) / np.linalg.norm(x)
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert tensor["relative_error"] == pytest.approx(error, abs=1e-12)
        assert tensor["cosine"] == pytest.approx(cosine, abs=1e-12)
        assert (tensor["relative_error"] > 0) == (tensor["name"] == name)
    assert found["text"] is None


def test_types_and_threads(invoke, storyteller: Path, q4: Path) -> None:
    results = [invoke("diff", storyteller, q4, "-t", n).stdout for n in (1, 3)]
    assert results[0] == results[1]
    for name, rest in (
        ("ffn_up_exps", "Q8_0 +Q4_0  error 8.[0-9]{3}e-02  cosine 0.996"),
        ("ffn_norm", "F32 +F32  error 0.000e[+]00  cosine 1.000000"),
    ):
        assert re.search(rf"^blk.0.{name}.weight +{rest}", results[0], re.M)


def test_what_is_missing_or_of_another_shape(invoke, tmp_path: Path) -> None:
    one, other = TINY_MODELS["dense"], TINY_MODELS["four-share"]
    a = write_tiny_gguf(tmp_path / "a.gguf", one, random_weights(one))
    b = write_tiny_gguf(tmp_path / "b.gguf", other, random_weights(other))
    lines = invoke("diff", a, b).stdout.splitlines()
    assert "output.weight: shape (101, 96) in A, (293, 96) in B" in lines
    assert "blk.0.ffn_up.weight: only in A" in lines
    assert "blk.0.ffn_gate_inp.weight: only in B" in lines


def plain_divergence(a: LLM, b: LLM, n_ctx: int, text: str) -> tuple[float, float]:
    """Mean KL divergence, and share of equal likeliest tokens: a token at a time."""
    ids = a.tokenize(text, add_bos=True)
    kl, same = [], []
    for start in range(0, len(ids) - n_ctx + 1, n_ctx):
        chunk = [ids[0], *ids[start + 1 : start + n_ctx]]
        rows = zip(a.logits(chunk), b.logits(chunk), strict=True)
        for logits_a, logits_b in list(rows)[n_ctx // 2 : -1]:
            p, q = (np.exp(row.astype(np.float64)) for row in (logits_a, logits_b))
            p, q = p / p.sum(), q / q.sum()
            kl.append((p * np.log(p / q)).sum())
            same.append(p.argmax() == q.argmax())
    return float(np.mean(kl)), float(np.mean(same))


def test_on_a_text(invoke, storyteller: Path, q4: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text(TEXT.read_text(encoding="utf-8")[:2000], encoding="utf-8")
    args = ("diff", storyteller, q4, "--text", text, "--ctx", 64)
    found = json.loads(invoke(*args, "--json").stdout)["text"]
    with LLM(storyteller) as a, LLM(q4) as b:
        content = text.read_text(encoding="utf-8")
        for which, llm in (("a", a), ("b", b)):
            expected = perplexity(llm, content, 64)
            assert found[which]["perplexity"] == pytest.approx(expected.perplexity, rel=1e-9)
            assert found[which]["n_tokens"] == expected.n_tokens
        kl, same_top = plain_divergence(a, b, 64, content)
    assert found["kl"] == pytest.approx(kl, rel=1e-6)
    assert found["same_top"] == pytest.approx(same_top)
    assert 0 < found["kl"] < found["kl_max"]
    shown = invoke(*args).stdout
    assert f"KL divergence of B from A: {found['kl']:.6f}" in shown


def test_a_model_and_itself(invoke, storyteller: Path) -> None:
    found = json.loads(
        invoke("diff", storyteller, storyteller, "--text", TEXT, "--ctx", 256, "--json").stdout
    )["text"]
    assert (found["kl"], found["kl_max"], found["same_top"]) == (0, 0, 1)


def test_other_vocabularies(invoke, storyteller: Path, stories260k: Path) -> None:
    result = invoke("diff", storyteller, stories260k, "--text", TEXT, "--ctx", 64)
    assert result.exit_code == 1
    assert "the vocabularies differ" in result.stderr
