"""One random Mixtral in every container and layout: the same GGUF file comes out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import hf_folders
import numpy as np
import pytest
import torch_files
from hf_folders import mixtral_config, packed, safetensors_bytes, weights, write_folder
from mistral_folders import original, stacked, write_config, write_original, write_stacked

from pymixtral.formats import FormatError, open_gguf, read_hparams
from pymixtral.formats.convert import Conversion, convert
from pymixtral.formats.mistral_config import read_mistral_config
from pymixtral.formats.torch_checkpoint import TorchFile

Write = Callable[[Path], Path]


def hf_bin(folder: Path) -> Path:
    """pytorch_model-*.bin with their index."""
    write_folder(folder)
    (folder / "model.safetensors").unlink()
    arrays = weights()
    weight_map = {}
    for i in range(2):
        shard = {name: arrays[name] for name in list(arrays)[i::2]}
        name = f"pytorch_model-{i + 1:05}-of-00002.bin"
        (folder / name).write_bytes(torch_files.checkpoint(shard))
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def consolidated_safetensors(folder: Path) -> Path:
    write_config(folder)
    content = safetensors_bytes(original(weights()), "BF16")
    (folder / "consolidated.safetensors").write_bytes(content)
    return folder


CONTAINERS: dict[str, Write] = {
    "hf": write_folder,
    "hf-packed": lambda folder: write_folder(folder, arrays=packed(weights())),
    "hf-bin": hf_bin,
    "mistral-pth": lambda folder: write_original(folder, weights()),
    "mistral-pth-splits": lambda folder: write_original(folder, weights(), 11),
    "mistral-safetensors": consolidated_safetensors,
    "mistral-stacked-pt": lambda folder: write_stacked(folder, weights()),
}


def digest(folder: Path, out: Path, type_name: str = "bf16") -> str:
    convert(folder, out, type_name, name="same")
    return hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the conversion of the plain Hugging Face folder, which gguf has checked."""
    path = tmp_path_factory.mktemp("reference")
    folder = write_folder(path / "hf")
    return {kind: digest(folder, path / "out.gguf", kind) for kind in ("f32", "bf16", "q8_0")}


@pytest.mark.parametrize("type_name", ["f32", "bf16", "q8_0"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_file(
    tmp_path: Path, reference: dict[str, str], container: str, type_name: str
) -> None:
    folder = CONTAINERS[container](tmp_path / "src")
    assert digest(folder, tmp_path / "out.gguf", type_name) == reference[type_name]


@pytest.mark.parametrize("name", ["consolidated.00.pth", "consolidated.00.pth-split0"])
def test_a_file_stands_for_its_folder(tmp_path: Path, reference: dict[str, str], name: str) -> None:
    folder = write_original(tmp_path / "src", weights(), 3 if "split" in name else 0)
    assert digest(folder / name, tmp_path / "out.gguf") == reference["bf16"]


# ---- Recognition ----


def test_a_folder_that_holds_both(tmp_path: Path) -> None:
    """Hugging Face's is taken, unless the other is asked for."""
    folder = write_folder(tmp_path / "both")
    write_original(folder, {name: 2 * array for name, array in weights().items()})
    for origin, factor in ((None, 1), ("hf", 1), ("mistral", 2)):
        out = tmp_path / "out.gguf"
        with Conversion(folder, out, "f32", origin=origin) as conversion:
            conversion.run()
            assert any("left aside" in warning for warning in conversion.warnings)
        with open_gguf(out) as found:
            expected = factor * weights()["lm_head.weight"]
            np.testing.assert_array_equal(found.array("output.weight"), expected)


def test_other_pickles_are_left_aside(tmp_path: Path) -> None:
    folder = write_original(tmp_path / "src", weights())
    evil = b"\x80\x02cposix\nsystem\n" + torch_files.text("true") + b"\x85R."
    (folder / "training_args.bin").write_bytes(torch_files.archive(evil, {}))
    with Conversion(folder, tmp_path / "out.gguf", "bf16") as conversion:
        assert any("posix.system, which is not allowed" in w for w in conversion.warnings)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"GGUF" + bytes(20), "is a GGUF file already"),
        (b"\x80\x02}q\x00.", "bare pickle of PyTorch before 1.6"),
        (b"something else", "is neither"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes, what: str) -> None:
    path = write_config(tmp_path / "src") / "consolidated.00.pth"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=what):
        convert(path, tmp_path / "out.gguf", "bf16")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no hf or mistral checkpoint"):
        convert(tmp_path, tmp_path / "out.gguf", "bf16")


def test_a_missing_split(tmp_path: Path) -> None:
    folder = write_original(tmp_path / "src", weights(), 4)
    (folder / "consolidated.00.pth-split2").unlink()
    with pytest.raises(FormatError, match="split2 is missing"):
        convert(folder, tmp_path / "out.gguf", "bf16")


def test_shards_that_contradict_one_another(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "src")
    first, second = stacked(weights())
    second["norm.weight"] = second["norm.weight"] + 1
    for i, shard in enumerate((first, second)):
        (folder / f"consolidated.{i:02}.pt").write_bytes(torch_files.checkpoint(shard))
    with pytest.raises(FormatError, match="norm.weight: is in an earlier shard"):
        convert(folder, tmp_path / "out.gguf", "bf16")


# ---- What had to be assumed ----


def warnings_of(folder: Path) -> str:
    with Conversion(folder, folder.parent / "out.gguf", "bf16") as conversion:
        conversion.run()
        return "\n".join(conversion.warnings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_theta": None}, "rope_theta is missing; 1e+06 assumed"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "10000.0 assumed"),
        ({"sliding_window": 4096}, "sliding_window is 4096; none assumed"),
        ({"vocab_size": 299}, "vocab_size is 299, the embedding has 300 rows; 300 assumed"),
    ],
)
def test_hf_warnings(tmp_path: Path, change: dict[str, object], words: str) -> None:
    assert words in warnings_of(write_folder(tmp_path / "hf", mixtral_config() | change))


@pytest.mark.parametrize(
    ("change", "words", "theta"),
    [
        ({"rope_theta": None}, "rope_theta is missing; 1e+06 assumed", 1e6),
        ({"sliding_window": 4096}, "sliding_window is 4096; none assumed", 1e6),
        ({"max_position_embeddings": None}, "32768 assumed", 1e6),
        ({"vocab_size": None}, "vocab_size is missing; 300 assumed", 1e6),
    ],
)
def test_mistral_warnings(
    tmp_path: Path, change: dict[str, object], words: str, theta: float
) -> None:
    folder = write_original(tmp_path / "src", weights())
    write_config(folder, change)
    assert words in warnings_of(folder)
    with open_gguf(tmp_path / "out.gguf") as found:
        assert read_hparams(found).rope_theta == theta


@pytest.mark.parametrize(
    ("dim", "n_layers", "n_ctx"), [(4096, 32, 32768), (6144, 56, 65536), (64, 2, 32768)]
)
def test_contexts_of_mistral_s_releases(
    tmp_path: Path, dim: int, n_layers: int, n_ctx: int
) -> None:
    change = {"dim": dim, "n_layers": n_layers, "max_position_embeddings": None}
    path = write_config(tmp_path / "src", change) / "params.json"
    assert read_mistral_config(path, 300, has_output=True).n_ctx_train == n_ctx


def test_nothing_to_warn_of(tmp_path: Path) -> None:
    n_pieces = len(hf_folders.PIECES)
    arrays = weights()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = arrays[name][:n_pieces]
    config = mixtral_config() | {"vocab_size": n_pieces}
    assert warnings_of(write_folder(tmp_path / "hf", config, arrays)) == ""


# ---- PyTorch's own files ----


def test_torch_writes_what_we_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch, to write with it")
    tensors = {
        "a": torch.randn(3, 4).to(torch.bfloat16),
        "b": torch.randn(5, 2).T,
        "c": torch.randn(10)[3:7].half(),
        "d": torch.nn.Parameter(torch.randn(2, 2)),
    }
    tensors["e"] = tensors["b"][1:]  # shares a storage
    path = tmp_path / "t.pt"
    torch.save(tensors, path)
    file = TorchFile(path)
    for name, expected in tensors.items():
        stored, _ = file.stored(name)
        bits = {2: torch.int16, 4: torch.int32}[expected.element_size()]
        wanted = expected.detach().contiguous().view(bits).numpy()
        np.testing.assert_array_equal(np.ascontiguousarray(stored).view(wanted.dtype), wanted)
    file.close()
