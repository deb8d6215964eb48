"""`pymixtral quantize`: the types of a recipe, overrides, refusals, a file that still answers."""

import json
import os
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pymixtral import quantizer
from pymixtral.formats import open_gguf
from pymixtral.formats.quantize import Encoded, quantize_gguf
from pymixtral.formats.recipes import RECIPES

STORYTELLER = Path(__file__).parents[2] / "pymixtral/models/storyteller-Q8_0.gguf"


def types(path: Path) -> dict[str, str]:
    with open_gguf(path) as gguf:
        return {name: info.type_name for name, info in gguf.tensors.items()}


def test_recipe_of_8_experts(invoke, tmp_path: Path) -> None:
    out = tmp_path / "small.gguf"
    result = invoke(
        "quantize", str(STORYTELLER), str(out), "q4_k_m", "--allow-requantize", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["n_bytes"] == out.stat().st_size
    found = types(out)
    assert found["output.weight"] == "Q6_K"
    assert found["token_embd.weight"] == "Q4_K"
    assert found["blk.0.attn_k.weight"] == found["blk.0.attn_v.weight"] == "Q8_0"
    assert found["blk.0.attn_output.weight"] == "Q5_K"
    assert found["blk.0.ffn_down_exps.weight"] == "Q4_K"  # the mixes go by the layer's number
    assert found["blk.2.ffn_down_exps.weight"] == found["blk.3.ffn_down_exps.weight"] == "Q6_K"
    assert found["blk.0.ffn_gate_inp.weight"] == found["blk.0.ffn_norm.weight"] == "F32"
    answer = invoke("run", str(out), "Once upon a time", "--max-tokens", "4", "--temperature", "0")
    assert answer.exit_code == 0


def test_threads_do_not_change_a_byte(invoke, tmp_path: Path) -> None:
    for threads in ("1", "3"):
        out = str(tmp_path / threads)
        args = ("quantize", str(STORYTELLER), out, "q2_k", "--allow-requantize", "-t", threads)
        assert invoke(*args).exit_code == 0
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()


def test_override_and_rules_of_a_file(invoke, tmp_path: Path) -> None:
    rules, out = tmp_path / "mine.txt", tmp_path / "out.gguf"
    rules.write_text("* q5_0  # all\nffn_* iq4_nl\n", encoding="utf-8")
    args = ("quantize", str(STORYTELLER), str(out), str(rules), "--allow-requantize")
    assert invoke(*args, "--tensor-type", "ffn_up=q3_k").exit_code == 0
    found = types(out)
    assert found["blk.1.attn_q.weight"] == "Q5_0"
    assert found["blk.1.ffn_gate_exps.weight"] == "IQ4_NL"
    assert found["blk.1.ffn_up_exps.weight"] == "Q3_K"


def test_dry_run_writes_nothing(invoke, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    args = ("quantize", str(STORYTELLER), str(out), "q4_k_s", "--allow-requantize", "--dry-run")
    plan = json.loads(invoke(*args, "--json").stdout)
    assert not out.exists()
    assert {tensor["type"] for tensor in plan["tensors"]} == {"F32", "Q4_K", "Q5_K", "Q6_K", "Q8_0"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("q4_k_m",), "--allow-requantize"),
        (("q9_z",), "none of"),
        (("q4_k_m", "--tensor-type", "ffn_down=q9"), "none of"),
        (("q4_k_m", "--tensor-type", "fnn_down=q6_k"), "fnn_down matches none of token_embd, "),
    ],
)
def test_refusals(invoke, tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    out = tmp_path / "out.gguf"
    result = invoke("quantize", str(STORYTELLER), str(out), *args)
    assert result.exit_code != 0
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_output_equal_to_input(invoke, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(STORYTELLER.read_bytes())
    result = invoke("quantize", str(path), str(path), "q4_0", "--allow-requantize")
    assert "is the source itself" in result.stderr
    assert path.read_bytes() == STORYTELLER.read_bytes()


def quantize_and_die(out: Path, n_slices: int) -> None:
    """To Q4_K_M, in a process of its own, killed with SIGKILL once so many slices are encoded."""
    child = os.fork()
    if child == 0:
        slices = iter(range(n_slices))

        def encode(*arguments: Any) -> Encoded:
            if next(slices, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return quantizer.encode(*arguments)

        quantize_gguf(STORYTELLER, out, RECIPES["q4_k_m"], encode, allow_requantize=True)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("n_slices", [0, 40, 100])
def test_a_killed_run_is_resumed(invoke, tmp_path: Path, n_slices: int) -> None:
    out, whole = tmp_path / "out.gguf", tmp_path / "whole.gguf"
    args = ("q4_k_m", "--allow-requantize", "--json")
    assert invoke("quantize", STORYTELLER, whole, *args).exit_code == 0
    quantize_and_die(out, n_slices)
    assert not out.exists()
    result = invoke("quantize", STORYTELLER, out, *args, "--resume")
    assert (json.loads(result.stdout)["resumed"] > 0) == (n_slices > 0)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "whole.gguf"]


@pytest.mark.parametrize(
    ("recipe", "options"), [("q4_k_s", ()), ("q4_k_m", ("--imatrix", "i.dat"))]
)
def test_another_job_is_not_resumed(
    invoke, tmp_path: Path, recipe: str, options: tuple[str, ...]
) -> None:
    importance = np.linspace(1, 3, 256, dtype="<f4")
    name = b"blk.0.attn_q.weight"
    (tmp_path / "i.dat").write_bytes(
        struct.pack(f"<ii{len(name)}sii", 1, len(name), name, 1, 256) + importance.tobytes()
    )
    out = tmp_path / "out.gguf"
    quantize_and_die(out, 40)
    options = tuple(option.replace("i.dat", str(tmp_path / "i.dat")) for option in options)
    args = ("quantize", STORYTELLER, out, recipe, "--allow-requantize", "--json", *options)
    assert json.loads(invoke(*args, "--resume").stdout)["resumed"] == 0


def test_what_a_killed_run_left_is_told(invoke, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize_and_die(out, 40)
    result = invoke("quantize", STORYTELLER, out, "q2_k", "--allow-requantize")
    assert "is left of a run that was killed: --resume or delete it" in result.stderr
