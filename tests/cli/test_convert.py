"""`convert` and `verify` from the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from gguf_files import tiny_metadata, tiny_shapes, write_model
from hf_folders import mixtral_config, write_folder

from pymixtral.formats import open_gguf
from pymixtral.formats.imatrix import Calibration, TensorSums, write_calibration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "hf")


@pytest.fixture
def exact(invoke, folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "exact.gguf"
    assert invoke("convert", folder, out, "--type", "bf16").exit_code == 0
    return out


def test_convert_and_verify(invoke, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    names = ("--name", "Tiny", "--license", "MIT")
    result = invoke("convert", folder, out, "--type", "Q8_0", *names)
    assert result.exit_code == 0
    assert "bits per weight" in result.stdout
    assert "relative RMS" in result.stdout
    with open_gguf(out) as found:
        assert found.metadata["general.name"] == "Tiny"
        assert found.metadata["general.license"] == "MIT"
    assert invoke("verify", out).stdout.startswith(f"{out}: good, ")


def test_convert_json(invoke, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    facts = json.loads(invoke("convert", folder, out, "--type", "q8_0", "--json").stdout)
    assert facts["n_bytes"] == out.stat().st_size
    assert facts["type"] == "Q8_0"
    assert 0 < max(facts["errors"].values()) < 1e-2


@pytest.mark.parametrize("recipe", ["q4_k_m", "iq4_nl", "q5_1"])
def test_a_recipe_in_one_step_or_two(
    invoke, folder: Path, exact: Path, tmp_path: Path, recipe: str
) -> None:
    """Rows of 64 and 96 fill no block of 256: the K-quants fall back to smaller blocks."""
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    assert invoke("convert", folder, one, "--type", recipe).exit_code == 0
    assert invoke("quantize", exact, two, recipe).exit_code == 0
    with open_gguf(one) as a, open_gguf(two) as b:
        assert {info.type_name for info in a.tensors.values()} > {"F32"}
        for name, info in a.tensors.items():
            assert info.type == b.tensors[name].type
            assert a.data(name) == b.data(name), name
        assert a.metadata["general.file_type"] == b.metadata["general.file_type"]


def write_importance(path: Path, model: Path, without: str = "") -> Path:
    """Drawn at random, for all tensors of `model` but one."""
    random = np.random.default_rng(0)
    with open_gguf(model) as found:
        shapes = {name: t.shape for name, t in found.tensors.items() if len(t.shape) > 1}
    tensors = {}
    for name, shape in shapes.items():
        n_matrices = shape[0] if len(shape) == 3 else 1
        squares = random.uniform(0.1, 4, (n_matrices, shape[-1])).astype(np.float32)
        tensors[name] = TensorSums(squares, np.ones((n_matrices, 1), np.float32))
    tensors.pop(without, None)
    write_calibration(path, Calibration(tensors))
    return path


def test_importance_in_one_step_or_two(invoke, folder: Path, exact: Path, tmp_path: Path) -> None:
    plain, one, two = tmp_path / "plain.gguf", tmp_path / "one.gguf", tmp_path / "two.gguf"
    imatrix = ("--imatrix", write_importance(tmp_path / "i.imatrix", exact))
    assert invoke("convert", folder, plain, "--type", "q4_0").exit_code == 0
    assert "has nothing" not in invoke("convert", folder, one, "--type", "q4_0", *imatrix).stderr
    assert invoke("quantize", exact, two, "q4_0", *imatrix).exit_code == 0
    with open_gguf(plain) as without, open_gguf(one) as a, open_gguf(two) as b:
        for name, info in a.tensors.items():
            assert a.data(name) == b.data(name), name
            assert (a.data(name) != without.data(name)) == (info.type_name == "Q4_0"), name


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_what_the_importance_lacks_is_told(
    invoke, folder: Path, exact: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    path = write_importance(tmp_path / "i.imatrix", exact, without="blk.1.ffn_up_exps.weight")
    result = invoke("convert", folder, tmp_path / "out.gguf", "--imatrix", path, *option)
    assert result.exit_code == 0
    said = f"{path}: has nothing for 1 of the model's tensors, in which all columns count alike: "
    assert result.stderr.splitlines()[-1] == f"warning: {said}blk.1.ffn_up_exps.weight"


def test_dry_run(invoke, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    text = invoke("convert", folder, out, "--dry-run").stdout
    assert "blk.0.ffn_down_exps.weight       Q8_0  3 x 64 x 96" in text
    assert "enough" in text.splitlines()[-1]
    plan = json.loads(invoke("convert", folder, out, "--dry-run", "--json").stdout)
    assert not out.exists()
    invoke("convert", folder, out)
    with open_gguf(out) as found:
        assert {t["name"]: t["n_bytes"] for t in plan["tensors"]} == {
            name: info.n_bytes for name, info in found.tensors.items()
        }
    assert plan["fits"]


def test_warnings_are_shown(invoke, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", mixtral_config() | {"rope_theta": None})
    result = invoke("convert", folder, tmp_path / "out.gguf")
    assert "warning: config.json: rope_theta is missing; 1e+06 assumed" in result.stderr


def test_rules_of_a_file_and_overrides(invoke, folder: Path, tmp_path: Path) -> None:
    rules, out = tmp_path / "mine.txt", tmp_path / "out.gguf"
    rules.write_text("* bf16  # all\nattn_* q8_0\n", encoding="utf-8")
    result = invoke("convert", folder, out, "--type", rules, "--tensor-type", "attn_q=q4_0")
    assert result.exit_code == 0, result.stderr
    with open_gguf(out) as found:
        types = {name: info.type_name for name, info in found.tensors.items()}
    assert types["output.weight"] == "BF16"
    assert types["blk.1.attn_k.weight"] == "Q8_0"
    assert types["blk.1.attn_q.weight"] == "Q4_0"
    assert types["blk.1.attn_norm.weight"] == "F32"


def test_from(invoke, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert invoke("convert", folder, out, "--from", "hf").exit_code == 0
    result = invoke("convert", folder, tmp_path / "other.gguf", "--from", "mistral")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no mistral checkpoint here" in result.stderr


def test_unknown_types(invoke, folder: Path, tmp_path: Path) -> None:
    result = invoke("convert", folder, tmp_path / "out.gguf", "--type", "q9_z")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "is no file, and none of" in result.stderr


def test_what_a_killed_run_left_is_told(invoke, folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.gguf.0123abcd.tmp").write_bytes(b"part")
    result = invoke("convert", folder, tmp_path / "out.gguf")
    assert "is left of a run that was killed: --resume or delete it" in result.stderr


def test_failures_are_one_line(invoke, tmp_path: Path) -> None:
    result = invoke("convert", tmp_path / "none", tmp_path / "out.gguf")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


# ---- verify ----


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.gguf", tiny_metadata(), tiny_shapes())


def test_verify_json(invoke, model: Path) -> None:
    found = json.loads(invoke("verify", model, "--json").stdout)
    assert found["n_bytes"] == model.stat().st_size
    assert found["sha256"] == []


def test_verify_manifest(invoke, model: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    manifest = tmp_path / "SHA256SUMS"
    manifest.write_text(f"{'0' * 64}  other.gguf\n{digest}  model.gguf\n")
    assert "the hash agrees" in invoke("verify", model, "--manifest", manifest).stdout
    manifest.write_text(f"{'0' * 64}  model.gguf\n")
    result = invoke("verify", model, "--manifest", manifest)
    assert result.exit_code == 1
    assert "the manifest says 000" in result.stderr
    manifest.write_text("")
    assert "has no line" in invoke("verify", model, "--manifest", manifest).stderr


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_verify_finds_numbers_that_are_none(invoke, model: Path, value: float) -> None:
    with open_gguf(model) as found:
        offset = found.tensors["output.weight"].offset + 4 * 7
    content = bytearray(model.read_bytes())
    content[offset : offset + 4] = np.float32(value).tobytes()
    model.write_bytes(content)
    result = invoke("verify", model)
    assert result.exit_code == 1
    assert f"tensor output.weight: values[7] is {value}" in result.stderr


def test_verify_finds_bad_scales(invoke, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    invoke("convert", folder, out)
    with open_gguf(out) as found:
        offset = found.tensors["output.weight"].offset + 34 * 5
    content = bytearray(out.read_bytes())
    content[offset : offset + 2] = np.float16(np.inf).tobytes()
    out.write_bytes(content)
    assert "d[5] is inf" in invoke("verify", out).stderr


def test_verify_refuses_a_truncated_file(invoke, model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1000])
    result = invoke("verify", model)
    assert result.exit_code == 1
    assert "past the end of the file" in result.stderr
