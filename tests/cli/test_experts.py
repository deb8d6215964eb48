"""`pymixtral experts`: the tables, the JSON and the picture."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from reference.tiny import TinyModel, random_weights
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM
from pymixtral.experts import find_experts

TEXT = "Once upon a time there was a fox."


def test_table(invoke, llm: LLM) -> None:
    result = invoke("experts", TEXT)
    assert result.exit_code == 0
    use = find_experts(llm, llm.tokenize(TEXT, add_bos=True))
    first, second, _, header, *rows = result.stdout.splitlines()
    assert first.startswith(f"{len(use.chosen)} tokens, 2 of 8 experts")
    assert "12.5 if all experts were alike" in second
    assert header.split() == ["layer", "expert", *"01234567"]
    for layer, row in enumerate(rows):
        assert re.findall(r"\d+(?=%)", row) == [f"{100 * s:.0f}" for s in use.shares()[layer]]
    assert len(rows) == 4
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_tokens(invoke, llm: LLM) -> None:
    result = invoke("experts", "--tokens", TEXT)
    ids = llm.tokenize(TEXT, add_bos=True)
    use = find_experts(llm, ids)
    rows = result.stdout.splitlines()[-len(ids) :]
    for row, token_id, chosen in zip(rows, ids, use.chosen.tolist(), strict=True):
        assert row.split() == [llm.tokenizer.piece(token_id), *(f"{a},{b}" for a, b in chosen)]


def test_json(invoke, llm: LLM) -> None:
    document = json.loads(invoke("experts", "--json", TEXT).stdout)
    ids = llm.tokenize(TEXT, add_bos=True)
    use = find_experts(llm, ids)
    assert document.keys() == {"n_experts", "n_used", "shares", "tokens"}
    assert (document["n_experts"], document["n_used"]) == (8, 2)
    assert document["shares"] == use.shares().tolist()
    assert [token["id"] for token in document["tokens"]] == ids
    assert [token["experts"] for token in document["tokens"]] == use.chosen.tolist()
    assert [token["weights"] for token in document["tokens"]] == use.weight.tolist()


def test_chat_and_stdin(invoke, llm: LLM) -> None:
    document = json.loads(invoke("experts", "--json", "--chat", "-", input=f"{TEXT}\n").stdout)
    ids = llm.encode_chat([{"role": "user", "content": TEXT}])
    assert [token["id"] for token in document["tokens"]] == ids


@pytest.mark.filterwarnings("ignore::UserWarning")  # few tokens: some bytes have none
def test_wide_models_fit_80_columns(invoke, tmp_path: Path) -> None:
    model = TinyModel(
        n_heads=2, n_kv_heads=1, head_dim=16, dim=32, ffn_dim=32, n_experts=20, n_experts_used=3,
        n_vocab=300, n_layers=12,
    )  # fmt: skip
    path = write_tiny_gguf(tmp_path / "wide.gguf", model, random_weights(model))
    result = invoke("experts", path, "--tokens", "a\x1bb")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[-1] for line in lines if "expert " in line] == ["7", "15", "19"]
    assert sum(line.startswith("layer   ") for line in lines) > 1
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot(invoke, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    path = tmp_path / f"experts.{ending}"
    result = invoke("experts", f"{TEXT} $x_1$ \u6f22 {'a ' * 100}", "--plot", path)
    assert result.exit_code == 0
    assert f"wrote {path}" in result.stderr
    assert "warning" not in result.stderr
    signature = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(signature)


def test_plot_shows_every_choice(invoke, llm: LLM, tmp_path: Path) -> None:
    """A filled cell of the SVG's raster for each token, layer and chosen expert."""
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    from matplotlib.figure import Figure

    shown = []
    savefig = Figure.savefig

    def noted(figure: Figure, *args: object, **settings: object) -> None:
        shown.append(figure.axes[0].images[0].get_array())
        savefig(figure, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", noted)
        assert invoke("experts", TEXT, "--plot", tmp_path / "a.svg").exit_code == 0
    use = find_experts(llm, llm.tokenize(TEXT, add_bos=True))
    n_tokens, n_layers, n_used = use.chosen.shape
    (cells,) = shown
    assert cells.shape == (n_layers * 8, n_tokens)
    assert cells.count() == n_tokens * n_layers * n_used
    token, layer = 3, 2
    best = use.chosen[token, layer, 0]
    assert cells[8 * layer + best, token] == use.weight[token, layer, 0]


def test_refusals(invoke, tmp_path: Path, stories260k: Path) -> None:
    for arguments, code, error in (
        (("experts", "--plot", tmp_path / "a.gguf", TEXT), 2, "must end in .png, .svg, .pdf"),
        (("experts", stories260k), 2, "TEXT is missing"),
        (("experts", stories260k, TEXT), 1, "is a dense model"),
        (("experts", "fox " * 600), 1, "do not fit the context of 512"),
    ):
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        assert error in result.stderr.splitlines()[-1]


def test_plot_without_matplotlib(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("pymixtral.cli.plot.find_spec", lambda name: None)
    result = invoke("experts", TEXT, "--plot", tmp_path / "a.png")
    assert result.exit_code == 1
    assert "pip install 'pymixtral[plot]'" in result.stderr
    assert result.stderr.count("\n") == 1  # before a model is loaded
