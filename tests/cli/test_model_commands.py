"""`inspect`, `tokenize`, `bench`, `perplexity` and `info`."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from gguf_files import tiny_metadata, tiny_shapes, write_model

from pymixtral import LLM, Phase, engine
from pymixtral.cli.model import human_count
from pymixtral.formats.gguf import ValueType
from pymixtral.perplexity import perplexity

# ---- inspect ----


def test_inspect(invoke, storyteller: Path) -> None:
    result = invoke("inspect", storyteller, "--ctx", 256)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = dict(re.findall(r"^(\w[\w .]*?)  +(.*)$", result.stdout, re.M))
    assert lines["architecture"] == "llama (Mixtral)"
    assert lines["size"] == "8.0 M parameters, 3.3 M active per token, 8.53 bits per weight"
    assert lines["types"].startswith("Q8_0 (30 tensors, 8.5 MB), F32 (")
    assert lines["experts"] == "8, 2 used per token"
    assert lines["chat template"] == "v1 (assumed; the file has none)"
    assert " at context 256 (weights 8.5 MB, KV cache in f16 0.3 MB" in lines["memory"]
    assert lines["llama.rope.freq_base"] == "1000000.0"
    assert lines["tokenizer.ggml.tokens"].startswith("2048 x STRING: '<unk>', '<s>', ")
    assert max(map(len, result.stdout.splitlines())) < 400
    assert "blk.0" not in result.stdout


def test_inspect_lists_tensors(invoke, storyteller: Path) -> None:
    output = invoke("inspect", storyteller, "--tensors").stdout
    assert re.search(r"^blk\.3\.ffn_down_exps\.weight +Q8_0 +8 x 256 x 256$", output, re.M)


def test_inspect_json(invoke, storyteller: Path) -> None:
    document = json.loads(invoke("inspect", storyteller, "--json", "--ctx", 256).stdout)
    assert document.keys() == {"metadata", "tensors", "memory"}
    metadata = document["metadata"]
    assert metadata["llama.expert_count"] == 8
    assert metadata["tokenizer.ggml.token_type"] == {
        "type": "INT32",
        "length": 2048,
        "first": [2, 3, 3, 6, 6, 6, 6, 6],
    }
    tensors = {tensor["name"]: tensor for tensor in document["tensors"]}
    assert tensors["blk.0.ffn_gate_exps.weight"]["shape"] == [8, 256, 256]
    assert tensors["blk.0.ffn_gate_exps.weight"]["n_bytes"] == 8 * 256 * 256 // 32 * 34
    memory = document["memory"]
    assert memory["weights"] == sum(tensor["n_bytes"] for tensor in document["tensors"])
    assert memory["kv_cache"] == 4 * 2 * 256 * 64 * 2  # layers, K and V, positions, values, bytes
    assert memory["total"] == memory["weights"] + memory["kv_cache"] + memory["scratch"]


def test_inspect_strange_metadata(invoke, tmp_path: Path) -> None:
    metadata = tiny_metadata() | {
        "general.name": ("caf\udce9\x1b[31m\nred", ValueType.STRING),
        "general.authors": (["a\udcff"], ValueType.ARRAY),
        "general.nan": (math.nan, ValueType.FLOAT32),
        "general.empty": (np.array([], np.float32), ValueType.ARRAY),
    }
    path = write_model(tmp_path / "strange.gguf", metadata, tiny_shapes())
    document = json.loads(invoke("inspect", path, "--json").stdout)
    assert document["metadata"]["general.name"] == "caf\ufffd\x1b[31m\nred"
    assert document["metadata"]["general.authors"]["first"] == ["a\ufffd"]
    assert document["metadata"]["general.nan"] == "nan"
    assert document["metadata"]["general.empty"] == {"type": "FLOAT32", "length": 0, "first": []}
    human = invoke("inspect", path)
    assert human.exit_code == 0
    assert "\x1b" not in human.stdout


V1_TEMPLATE = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"


@pytest.mark.parametrize(
    ("name", "template", "control_token", "expected"),
    [
        ("tiny", None, None, "v1 (assumed; the file has none)"),
        ("Mixtral 8x7B", None, None, "v1 (recognised by the model's name)"),
        ("tiny", V1_TEMPLATE, None, "v1 (recognised by the file's own template)"),
        ("Mixtral", "{{ m.content }}", None, "jinja (the file's own, run in a sandbox)"),
        ("Mixtral", V1_TEMPLATE, "[INST]", "v3 (recognised by the file's own template)"),
    ],
)
def test_inspect_tells_how_sure_the_template_is(
    invoke, tmp_path: Path, name: str, template: str | None, control_token: str, expected: str
) -> None:
    metadata = tiny_metadata() | {"general.name": (name, ValueType.STRING)}
    if template:
        metadata["tokenizer.chat_template"] = (template, ValueType.STRING)
    if control_token:
        tokens, types = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
        tokens[0][259] = control_token
        types[0][259] = 3
    path = write_model(tmp_path / "tiny.gguf", metadata, tiny_shapes())
    assert f"chat template  {expected}" in invoke("inspect", path).stdout


@pytest.mark.parametrize(
    ("n", "text"),
    [(46_702_792_704, "46.7 B"), (8_028_416, "8.0 M"), (1000, "1.0 k"), (7, "7")],
)
def test_human_count(n: int, text: str) -> None:
    assert human_count(n) == text


# ---- tokenize ----


def test_tokenize(invoke, storyteller: Path, llm: LLM) -> None:
    result = invoke("tokenize", storyteller, "A fox </s>")
    pairs = [line.split() for line in result.stdout.splitlines()]
    assert [int(token_id) for token_id, _ in pairs] == llm.tokenize("A fox </s>")
    assert "".join(piece for _, piece in pairs).endswith("<0x3C>/s<0x3E>")  # no control token


def test_tokenize_json(invoke, storyteller: Path, llm: LLM) -> None:
    result = invoke("tokenize", storyteller, "--json", "--bos", "-", input="A fox\n")
    document = json.loads(result.stdout)
    assert document.keys() == {"ids", "pieces"}
    assert document["ids"] == llm.tokenize("A fox", add_bos=True)
    assert document["pieces"][0] == "<s>"
    assert "".join(document["pieces"][1:]) == "▁A▁fox"


# ---- bench ----


def test_bench(invoke) -> None:
    result = invoke("bench", "-p", 64, "-n", 8, "-r", 3)
    assert result.exit_code == 0
    rate = r"[\d.]+"
    line = rf"{{}} +{{}} tokens +{rate} tokens/s  \({rate} to {rate}\)"
    prefill, decode = result.stdout.splitlines()
    assert re.fullmatch(line.format("prefill", 64), prefill)
    assert re.fullmatch(line.format("decode", 8), decode)
    assert "loaded in " in result.stderr
    assert "first pass: " in result.stderr


def test_bench_json(invoke) -> None:
    document = json.loads(invoke("bench", "-p", 64, "-n", 8, "-r", 3, "--json").stdout)
    assert [(entry["test"], entry["n"]) for entry in document] == [("prefill", 64), ("decode", 8)]
    for entry in document:
        assert entry.keys() == {"test", "n", "tokens_per_second", "spread", "engine"}
        engine = entry["engine"]
        assert engine.keys() == {"model", "tier", "threads", "kv_type", "weights"}
        assert (engine["kv_type"], engine["weights"]) == ("f16", "rows")
        assert entry["tokens_per_second"] > 0
        assert entry["spread"] >= 0


@pytest.fixture
def quick_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer of 8 MB instead of 2 GB, and multiplications for a moment."""
    monkeypatch.setattr("pymixtral.roofline.READ_BYTES", 8 << 20)
    monkeypatch.setattr("pymixtral.roofline.MULTIPLY_SECONDS", 0.001)


def test_bench_roofline_and_profile(invoke, quick_limits, tmp_path: Path) -> None:
    picture = tmp_path / "roofline.png"
    options = ("-p", 64, "-n", 8, "-r", 2, "--roofline", "--profile", "--plot", picture)
    result = invoke("bench", *options)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"limits of \d+ threads: read .* GB/s, multiply .* GMAC/s \(.*\)", lines[3])
    assert re.fullmatch(
        r"prefill .* GB/s .* GMAC/s .*% of what (memory|arithmetic) allows", lines[4]
    )
    assert [line.split("  ")[0] for line in lines[9:]] == [
        "embedding", "norms", "q, k, v", "attention", "attention output", "router",
        "gate, up, SiLU", "down", "head",
    ]  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bench_roofline_json(invoke, quick_limits) -> None:
    options = ("-p", 64, "-n", 8, "-r", 3, "--roofline", "--profile", "--json")
    for entry in json.loads(invoke("bench", *options).stdout):
        roofline, profile = entry["roofline"], entry["profile"]
        assert roofline["bound_by"] in ("memory", "arithmetic")
        limits = roofline["limits"]
        fractions = [
            roofline[f"{what}_per_second"] / limits[f"{what}_per_second"]
            for what in ("bytes", "products")
        ]
        assert roofline["fraction"] == pytest.approx(max(fractions))
        assert all(seconds > 0 for seconds in profile.values())


def test_bench_refuses_a_picture_before_the_model_is_loaded(invoke) -> None:
    result = invoke("bench", "absent.gguf", "--plot", "roofline.txt")
    assert result.exit_code == 2
    assert "must end in .png, .svg, .pdf" in result.stderr
    result = invoke("bench", "absent.gguf", "--plot", "/nowhere/roofline.png")
    assert result.exit_code == 1
    assert "there is no folder /nowhere" in result.stderr


def test_bench_beyond_the_context(invoke) -> None:
    assert invoke("bench", "-p", 512, "-n", 2, "-r", 1).exit_code == 0  # less of the prompt stays
    for options, what, advice in (
        (("-p", 513), "513 prompt tokens", "choose fewer (-p)"),
        (("-n", 512), "512 new tokens, and one before them,", "choose fewer (-n)"),
        (("-p", 65, "--ctx", 64), "65 prompt tokens", "or raise --ctx (up to 512)"),
    ):
        result = invoke("bench", *options)
        assert result.exit_code == 1
        assert f"error: {what} do not fit the context of " in result.stderr
        assert result.stderr.endswith(f"{advice}\n")
        assert "loaded" not in result.stderr


# ---- perplexity ----

TEXT = "Once upon a time, there was a little girl named Lily. She had a red ball. " * 8


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("phase", Phase)
def test_perplexity(invoke, stories260k: Path, text_file: Path, phase: Phase) -> None:
    with LLM(stories260k) as llm:
        expected = perplexity(llm, TEXT, 64, phase)
    options = ("--ctx", 64, "--phase", phase.name.lower())
    document = json.loads(invoke("perplexity", stories260k, text_file, "--json", *options).stdout)
    assert document == {
        "perplexity": expected.perplexity,
        "stderr": expected.stderr,
        "tokens": expected.n_tokens,
    }
    assert invoke("perplexity", stories260k, "-", *options, input=TEXT).stdout == (
        f"perplexity {expected.perplexity:.4f} +/- {expected.stderr:.4f} "
        f"({expected.n_tokens} tokens scored)\n"
    )


def test_perplexity_of_a_short_text(invoke, stories260k: Path) -> None:
    result = invoke("perplexity", stories260k, "-", input="Once upon a time")
    assert result.exit_code == 1
    assert "error: the text has 5 tokens, and one chunk of context takes 512" in result.stderr


# ---- info ----


def test_info(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYMIXTRAL_TIER", raising=False)
    facts = json.loads(invoke("info", "--json").stdout)
    assert facts["tiers"] == engine.tiers()
    assert facts["threads"] == engine.default_threads()
    with LLM() as llm:
        assert facts["tier"] == llm.engine.tier
    assert f"default tier      {facts['tier']}\n" in invoke("info").stdout
    monkeypatch.setenv("PYMIXTRAL_TIER", "generic")
    assert json.loads(invoke("info", "--json").stdout)["tier"] == "generic"
