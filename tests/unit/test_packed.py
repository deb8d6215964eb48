"""Packed files: which are used, that results stay the same, and what becomes of those that do not
fit."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hollow_model import write_hollow_model
from reference.tiny import TinyModel, random_ids, random_weights
from reference.tiny_engine import BLOCK_MODEL, tiny_tensors
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM, Phase, loader
from pymixtral.engine import (
    Engine,
    EngineOptions,
    EngineTensor,
    is_repackable,
    repack_rows,
    repack_version,
    tiers,
)
from pymixtral.errors import ParameterError
from pymixtral.formats import FormatError, GGUFFile, ValueType, open_gguf
from pymixtral.formats.expert_layout import ExpertLayout
from pymixtral.formats.gguf_shards import open_model_file
from pymixtral.formats.gguf_split import merge_gguf, split_gguf
from pymixtral.formats.gguf_writer import GGUFWriter
from pymixtral.formats.packed import (
    ARCHITECTURE_KEY,
    FINGERPRINT_KEY,
    HASHES,
    I8,
    VERSION_KEY,
    header_for,
    packed_path,
)
from pymixtral.formats.packed_writer import verify_packed, write_packed
from pymixtral.packer import Packer, packed_header

REPACKED_TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
TIERS = [name for name, supported in tiers().items() if supported]
IDS = random_ids(BLOCK_MODEL, 41)
N_PACKED = 7 * BLOCK_MODEL.n_layers  # the output has 333 rows, no multiple of 16
Q = "blk.1.attn_q.weight"
Q8_0, Q4_K = 8, 12


@cache
def model_bytes(folder: Path, type_name: str, seed: int = 1) -> bytes:
    path = folder / "made.gguf"
    write_tiny_gguf(path, BLOCK_MODEL, random_weights(BLOCK_MODEL), type_name, seed)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make(folder, "Q4_K", seed=2)` writes a model of random blocks."""
    made = tmp_path_factory.mktemp("made")

    def write(folder: Path, type_name: str = "Q8_0", seed: int = 1) -> Path:
        path = folder / "model.gguf"
        path.write_bytes(model_bytes(made, type_name, seed))
        return path

    return write


def pack(model: Path) -> Path:
    out = packed_path(model)
    with open_model_file(model) as gguf, Packer(2) as packer:
        write_packed(gguf, out, packed_header(gguf), packer)
    return out


def logits(llm: LLM) -> list[bytes]:
    return [llm.logits(IDS, phase).tobytes() for phase in Phase]


def verify(packed: Path, model: Path) -> None:
    with open_gguf(packed) as file, open_model_file(model) as gguf, Packer() as packer:
        verify_packed(file, (gguf, packed_header(gguf), packer))


@contextmanager
def without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def told_in_vain(tier: str, repack: bool | None) -> AbstractContextManager[object]:
    """A warning where `repack` asks for what the tier has not, and else none."""
    if repack and tier == "generic":
        return pytest.warns(UserWarning, match="repack changes nothing: tier generic has no other")
    return without_warnings()


# ---- The same results ----


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("type_name", REPACKED_TYPES)
def test_results_are_those_of_the_models_layout(
    make: Callable[..., Path], tmp_path: Path, type_name: str, tier: str
) -> None:
    path = make(tmp_path, type_name)
    with LLM(path, tier=tier, repack=False) as llm:
        expected = logits(llm)
    with told_in_vain(tier, True), LLM(path, tier=tier, repack=True) as llm:
        assert llm.weight_layout == ("rows" if tier == "generic" else "copied")
        assert logits(llm) == expected
    packed = pack(path)
    copied: list[object] = []
    for repack in (None, True):
        with (
            told_in_vain(tier, repack),
            LLM(path, tier=tier, repack=repack, progress=lambda *step: copied.append(step)) as llm,
        ):
            assert llm.weight_layout == ("rows" if tier == "generic" else "packed")
            assert logits(llm) == expected
    assert copied == [] or tier == "generic"
    with LLM(path, tier=tier, repack=False) as llm:
        assert llm.weight_layout == "rows"
    verify(packed, path)


def test_the_models_own_rows_are_not_read(make: Callable[..., Path], tmp_path: Path) -> None:
    """Those of packed tensors are zeroed but for what the fingerprint samples."""
    path = make(tmp_path, "Q4_K")
    packed = pack(path)
    with LLM(path) as llm:
        expected = logits(llm)
    with open_gguf(path) as gguf, open_gguf(packed) as file:
        infos = [info for name, info in gguf.tensors.items() if name in file.tensors]
    assert len(infos) == N_PACKED
    with open(path, "rb+") as model:
        for info in infos:
            model.seek(info.offset)
            model.write(bytes(1000))
    with LLM(path) as llm:
        assert llm.weight_layout == "packed"
        assert logits(llm) == expected
    with LLM(path, repack=False) as llm:
        assert logits(llm) != expected
    with pytest.raises(FormatError, match="is not that of model.gguf repacked"):
        verify(packed, path)


def resident(path: Path) -> int:
    """Bytes of the file that this process has mapped and touched."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    n_kilobytes, is_of_path = 0, False
    for line in lines:
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_of_path = line.endswith(f" {path}")
        elif is_of_path and line.startswith("Rss:"):
            n_kilobytes += int(line.split()[1])
    return 1024 * n_kilobytes


def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    """Of the model, what lies around norms and routers is touched as well, up to 2 MB at a time."""
    large = TinyModel(
        n_heads=8, n_kv_heads=8, head_dim=128, dim=1024, ffn_dim=4096, n_experts=8,
        n_experts_used=8, n_vocab=32000,
    )  # fmt: skip
    path = write_hollow_model(tmp_path / "model.gguf", large)
    packed = pack(path)
    for repack, file, other in ((None, packed, path), (False, path, packed)):
        with LLM(path, n_ctx=64, repack=repack) as llm:
            llm.logits(range(1, 33))
            assert resident(file) > 0.8 * file.stat().st_size  # the embedding has few rows read
            assert resident(other) < 0.3 * other.stat().st_size
            assert resident(path) + resident(packed) < 1.05 * llm.memory_need.weights


@pytest.mark.parametrize("kind", ["per-expert", "shards", "byte splits"])
def test_other_kinds_of_files(make: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    whole = make(tmp_path, "Q4_K")
    with LLM(whole) as llm:
        expected = logits(llm)
    if kind == "per-expert":
        path = tmp_path / "old.gguf"
        merge_gguf(whole, path, ExpertLayout.PER_EXPERT)
        n_packed = N_PACKED + 3 * BLOCK_MODEL.n_layers * (BLOCK_MODEL.n_experts - 1)
    elif kind == "shards":
        path, n_packed = split_gguf(whole, tmp_path / "m", max_tensors=9)[0], N_PACKED
    else:
        content = whole.read_bytes()
        path, n_packed = tmp_path / "m.gguf.part1of2", N_PACKED
        path.write_bytes(content[:1_000_003])  # so that what follows is copied
        (tmp_path / "m.gguf.part2of2").write_bytes(content[1_000_003:])
    packed = pack(path)
    assert packed.name == f"{path.name}.packed"
    with open_gguf(packed) as file:
        assert len(file.tensors) == n_packed + 1
    with without_warnings(), LLM(path) as llm:
        assert llm.weight_layout == "packed"
        assert logits(llm) == expected
    verify(packed, path)


def test_tensors_are_cut_into_parts(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, "Q6_K")
    whole = pack(path).read_bytes()
    monkeypatch.setattr("pymixtral.packer._PART_BYTES", 50_000)
    monkeypatch.setattr("pymixtral.packer._TASK_BYTES", 9_000)
    assert pack(path).read_bytes() == whole


# ---- Which is used ----


def test_a_model_read_into_memory_uses_none(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    pack(path).write_bytes(b"nor is it looked at")
    with without_warnings(), LLM(path, use_mmap=False) as llm:
        assert llm.weight_layout == "rows"


def test_it_may_be_renamed_with_its_model(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    pack(path).rename(tmp_path / "other.gguf.packed")
    path.rename(tmp_path / "other.gguf")
    with LLM(tmp_path / "other.gguf") as llm:
        assert llm.weight_layout == "packed"


def test_it_outlives_its_name(make: Callable[..., Path], tmp_path: Path) -> None:
    """As where `pymixtral pack` replaces one that is in use."""
    path = make(tmp_path)
    packed = pack(path)
    with LLM(path) as llm:
        expected = logits(llm)
        packed.unlink()
        packed.write_bytes(b"")
        assert logits(llm) == expected


@pytest.mark.parametrize("type_name", ["F32", "IQ2_XS"])
def test_a_model_without_such_weights(
    make: Callable[..., Path], tmp_path: Path, type_name: str
) -> None:
    path = make(tmp_path, type_name)
    with pytest.raises(FormatError, match="nothing to write"):
        pack(path)
    assert list(tmp_path.iterdir()) == [path]


# ---- Those that do not fit ----


Metadata = dict[str, tuple[object, ValueType]]
Tensors = dict[str, tuple[int, tuple[int, ...], bytes]]  # type, shape, content


def rewritten(
    change: Callable[[Metadata, Tensors], object], alignment: int = 4096
) -> Callable[[Path], None]:
    """Writes a packed file anew after a change."""

    def rewrite(packed: Path) -> None:
        with open_gguf(packed) as file:
            metadata: Metadata = {k: (v, file.types[k]) for k, v in file.metadata.items()}
            tensors: Tensors = {
                name: (info.type, info.shape, bytes(file.data(name)))
                for name, info in file.tensors.items()
            }
        del metadata["general.alignment"]
        change(metadata, tensors)
        with GGUFWriter(packed, alignment=alignment) as writer:
            for key, (value, kind) in metadata.items():
                writer.add(key, value, kind)
            for name, (type_id, shape, _) in tensors.items():
                writer.declare(name, type_id, shape)
            for name, (_, _, content) in tensors.items():
                writer.write(name, content)

    return rewrite


def with_key(key: str, value: object, kind: ValueType) -> Callable[[Path], None]:
    return rewritten(lambda metadata, _: metadata.update({key: (value, kind)}))


def without_key(key: str) -> Callable[[Path], None]:
    return rewritten(lambda metadata, _: metadata.pop(key))


def put(tensors: Tensors, name: str, n_bytes: int) -> None:
    """A tensor of zeros, and as many hashes as there are tensors then."""
    tensors[name] = (I8, (n_bytes,), bytes(n_bytes))
    count_hashes(tensors)


def take(tensors: Tensors, name: str) -> None:
    del tensors[name]
    count_hashes(tensors)


def count_hashes(tensors: Tensors) -> None:
    tensors.pop(HASHES, None)
    tensors[HASHES] = (I8, (len(tensors), 32), bytes(32 * len(tensors)))


def as_blocks(_: Metadata, tensors: Tensors) -> None:
    type_id, shape, content = tensors[Q]
    tensors[Q] = (Q8_0, (shape[0] // 34 * 32,), content)


def overwrite(packed: Path, old: bytes, new: bytes) -> None:
    content = packed.read_bytes()
    assert content.count(old) == 1
    assert len(old) == len(new)
    packed.write_bytes(content.replace(old, new))


def replace_by_fifo(packed: Path) -> None:
    packed.unlink()
    os.mkfifo(packed)


def replace_by_folder(packed: Path) -> None:
    packed.unlink()
    packed.mkdir()


def replace_by_dangling_link(packed: Path) -> None:
    packed.unlink()
    packed.symlink_to("nowhere")


def move_offset_of_the_last(packed: Path) -> None:
    """Of the tensor of hashes, to beyond the end of the file."""
    content = bytearray(packed.read_bytes())
    at = content.index(HASHES.encode()) + len(HASHES) + 4 + 16 + 4
    content[at : at + 8] = (2**62).to_bytes(8, "little")
    packed.write_bytes(content)


FITS_NOT: dict[str, tuple[Callable[[Path], object], str]] = {
    # name: what happens to the file, part of the warning
    "empty": (lambda path: os.truncate(path, 0), "the file is empty"),
    "cut in its header": (lambda path: os.truncate(path, 300), "records do not fit"),
    "cut in its data": (
        lambda path: os.truncate(path, path.stat().st_size - 4097),
        "past the end of the file",
    ),
    "no GGUF": (lambda path: overwrite(path, b"GGUF", b"GGUG"), "begins with b'GGUF'"),
    "fifo": (replace_by_fifo, "not a regular file"),
    "folder": (replace_by_folder, "not a regular file"),
    "dangling link": (replace_by_dangling_link, "No such file"),
    "a model": (
        lambda path: path.write_bytes(path.with_name("model.gguf").read_bytes()),
        "is 'llama', a packed file has",
    ),
    "no architecture": (without_key(ARCHITECTURE_KEY), "is None, a packed file has"),
    "architecture": (
        with_key(ARCHITECTURE_KEY, np.arange(3), ValueType.ARRAY),
        "a packed file has 'pymixtral-packed'",
    ),
    "version": (
        with_key(VERSION_KEY, repack_version() + 1, ValueType.UINT32),
        f"the layout is of version {repack_version() + 1}, this program's is {repack_version()}",
    ),
    "type of the version": (with_key(VERSION_KEY, "1", ValueType.STRING), "must be UINT32"),
    "no version": (without_key(VERSION_KEY), f"{VERSION_KEY}: is missing"),
    "fingerprint": (
        with_key(FINGERPRINT_KEY, "0" * 64, ValueType.STRING),
        "is of another model, or of this one before it was changed",
    ),
    "type of the fingerprint": (with_key(FINGERPRINT_KEY, 7, ValueType.UINT8), "must be STRING"),
    "missing tensor": (rewritten(lambda _, tensors: take(tensors, Q)), f"{Q} is missing"),
    "tensor of another name": (
        lambda path: overwrite(path, Q.encode(), b"blk.1.attn_x.weight"),
        f"{Q} is missing",
    ),
    "tensor too many": (
        rewritten(lambda _, tensors: put(tensors, "token_embd.weight", 64)),
        "tensor token_embd.weight: the model has none of this name to be packed",
    ),
    "tensor of another size": (
        rewritten(lambda _, tensors: put(tensors, Q, 69_631)),
        f"tensor {Q}: has 69631 bytes, the model's has 69632",
    ),
    "tensor of blocks": (rewritten(as_blocks), f"tensor {Q}: is Q8_0 of 1 dimensions, must be I8"),
    "no hashes": (
        rewritten(lambda _, tensors: tensors.pop(HASHES)),
        f"tensor {HASHES}: has the shape ()",
    ),
    "a hash too few": (
        rewritten(lambda _, tensors: tensors.update({HASHES: (I8, (3, 32), bytes(96))})),
        f"tensor {HASHES}: has the shape (3, 32)",
    ),
    "alignment": (rewritten(lambda *_: None, alignment=32), "is 32, must be a multiple of 64"),
    "offset": (move_offset_of_the_last, "past the end of the file"),
}


@pytest.mark.parametrize("name", FITS_NOT)
def test_one_that_does_not_fit_is_told_and_left(
    make: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    path = make(tmp_path)
    with LLM(path) as llm:
        expected = logits(llm)
    packed = pack(path)
    spoil, what = FITS_NOT[name]
    spoil(packed)
    for repack, layout in ((None, "rows"), (True, "copied")):
        told = pytest.warns(UserWarning, match="it is not used")
        with told as caught, LLM(path, repack=repack) as llm:
            assert llm.weight_layout == layout
            assert logits(llm) == expected
        (warning,) = llm.warnings
        assert [str(each.message) for each in caught] == [warning]
        assert warning.startswith(f"{packed}: ")
        assert what in warning
        assert warning.isprintable()
        assert warning.endswith(f"it is not used; run `pymixtral pack {path}` again, or delete it")
    with without_warnings(), LLM(path, repack=False) as llm:
        assert logits(llm) == expected


def test_a_model_that_was_quantized_anew(make: Callable[..., Path], tmp_path: Path) -> None:
    """Its header is the same to the byte."""
    path = make(tmp_path, "Q4_K", seed=1)
    packed = pack(path).read_bytes()
    before = path.read_bytes()
    make(tmp_path, "Q4_K", seed=2)
    with open_gguf(path) as gguf:
        assert bytes(gguf.header) == before[: gguf.data_offset]
    with pytest.warns(UserWarning, match="before it was changed"), LLM(path) as llm:
        assert llm.weight_layout == "rows"
    pack(path)
    assert packed_path(path).read_bytes() != packed
    with LLM(path) as llm:
        assert llm.weight_layout == "packed"


@pytest.mark.parametrize("expert", range(BLOCK_MODEL.n_experts))
def test_one_expert_that_was_changed(
    make: Callable[..., Path], tmp_path: Path, expert: int
) -> None:
    path = make(tmp_path)
    pack(path)
    with open_gguf(path) as gguf:
        info = gguf.tensors["blk.1.ffn_down_exps.weight"]
    n_bytes = info.n_bytes // BLOCK_MODEL.n_experts
    with open(path, "rb+") as model:
        model.seek(info.offset + n_bytes * expert + n_bytes // 2)
        old = model.read(1)[0]
        model.seek(-1, os.SEEK_CUR)
        model.write(bytes([old ^ 1]))
    with pytest.warns(UserWarning, match="before it was changed"), LLM(path) as llm:
        assert llm.weight_layout == "rows"


def test_somebody_elses(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)
    pack(path)
    monkeypatch.setattr(loader, "_trusted_owners", lambda gguf: {os.geteuid() + 1})
    with pytest.warns(UserWarning, match="who is neither you nor the model's owner"):
        LLM(path).close()


# ---- Every byte ----


def test_verify_finds_a_byte(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    packed = pack(path)
    with open_gguf(packed) as file:
        assert len(verify_packed(file).sizes) == N_PACKED
        info = file.tensors["blk.0.ffn_up_exps.weight"]
    with open(packed, "rb+") as changed:
        changed.seek(info.offset + info.n_bytes - 1)
        old = changed.read(1)[0]
        changed.seek(-1, os.SEEK_CUR)
        changed.write(bytes([old ^ 128]))
    with (
        open_gguf(packed) as file,
        pytest.raises(FormatError, match="tensor blk.0.ffn_up_exps.weight.*SHA-256"),
    ):
        verify_packed(file)


# ---- What the engine checks again ----


def repacked(tensor: EngineTensor) -> memoryview:
    """At a multiple of 64."""
    n_bytes = len(tensor.data)
    room = np.empty(n_bytes + 64, np.uint8)
    out = room[-room.ctypes.data % 64 :][:n_bytes]
    repack_rows(tensor.data, tensor.type, tensor.ne[0], out)
    return out.data


def test_the_engine_checks_address_size_and_type() -> None:
    tensors = tiny_tensors(type_name="Q4_K")
    weight = next(t for t in tensors if is_repackable(t.role, t.type, t.ne))
    good = repacked(weight)
    n_bytes = len(good)
    other = EngineTensor(weight.role, weight.layer, Q8_0, weight.ne, weight.data)
    nobody = EngineTensor(weight.role, weight.layer, weight.type, weight.ne, weight.data, expert=1)
    nowhere = EngineTensor(weight.role, 99, weight.type, weight.ne, weight.data)
    longer = memoryview(bytearray(n_bytes + 128))
    with closing(Engine(BLOCK_MODEL, tensors, EngineOptions(tier=TIERS[-1]))) as engine:
        for tensor, data, what in (
            (weight, good[:-64], f"take {n_bytes} bytes, got {n_bytes - 64}"),
            (weight, longer, f"got {n_bytes + 128}"),
            (weight, memoryview(b""), "got 0"),
            (weight, misaligned(good), "not aligned"),
            (other, good, "of type 8, the model's are 12"),
            (nobody, good, "no such expert"),
            (nowhere, good, "no such tensor"),
        ):
            with pytest.raises(ParameterError, match=what):
                engine.use_repacked(tensor, data)
        assert engine.use_repacked(weight, good) == n_bytes
        assert engine.use_repacked(weight, good) == 0  # it has them already
        assert engine.repack(weight) == 0


def misaligned(data: memoryview) -> memoryview:
    room = np.empty(len(data) + 128, np.uint8)
    start = -room.ctypes.data % 64 + 32
    room[start : start + len(data)] = data
    return room[start : start + len(data)].data


def test_what_is_read_by_rows_is_not_packed() -> None:
    tensors = tiny_tensors(type_name="Q4_K")
    with closing(Engine(BLOCK_MODEL, tensors, EngineOptions(tier=TIERS[-1]))) as engine:
        for tensor in tensors:
            expected = is_repackable(tensor.role, tensor.type, tensor.ne)
            assert (engine.repack(tensor) > 0) == expected


@pytest.mark.parametrize(
    ("type_id", "n_cols", "n_bytes"),
    [
        (12, 256, 144 * 15),
        (12, 128, 144 * 16),
        (17, 256, 74 * 16),
        (0, 256, 1024 * 16),
        (99, 256, 0),
    ],
)
def test_rows_that_cannot_be_repacked(type_id: int, n_cols: int, n_bytes: int) -> None:
    with pytest.raises(ValueError, match=r"groups|cannot be repacked"):
        repack_rows(memoryview(bytes(n_bytes)), type_id, n_cols, np.empty(n_bytes, np.uint8))


def test_a_header_notes_whose_it_is(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    with open_gguf(path) as gguf:
        header = packed_header(gguf)
        assert header.source_name == "model.gguf"
        assert header.source_size == path.stat().st_size
        assert header.sizes == sizes_of(gguf, header.sizes)
        assert header_for(gguf, header.sizes, repack_version()) == header


def sizes_of(gguf: GGUFFile, names: dict[str, int]) -> dict[str, int]:
    return {name: gguf.tensors[name].n_bytes for name in names}
