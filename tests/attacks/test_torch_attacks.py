"""PyTorch checkpoints that attack: cases 21 and 22 of the threat list."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch_files as tf
from hostile import Damage, damaged, damages, refusal, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymixtral.formats import FormatError, torch_pickle
from pymixtral.formats.stored_zip import MAX_ENTRIES
from pymixtral.formats.torch_checkpoint import TorchFile

GOOD = tf.tensor("0", 6, (2, 3), (3, 1))
DATA = {"0": bytes(24)}

Refuse = Callable[[bytes], str]


@pytest.fixture
def refuse(tmp_path: Path) -> Refuse:
    def write_and_open(content: bytes) -> str:
        path = tmp_path / "hostile.pth"
        path.write_bytes(content)
        error = refused(path, TorchFile)
        assert error.file == str(path)
        return error.what

    return write_and_open


@pytest.fixture
def refuse_pickle(refuse: Refuse) -> Refuse:
    return lambda pickle: refuse(tf.archive(pickle, DATA))


def test_the_parts_make_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "good.pth"
    path.write_bytes(tf.archive(tf.pickle_of({"a": GOOD}), DATA))
    file = TorchFile(path)
    assert file.shape("a") == (2, 3)
    file.close()


# ---- 21: pickles ----


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "torch._utils._rebuild_tensor",
        "collections.OrderedDict.fromkeys",
        "torch.storage._load_from_bytes",
        "__builtin__.eval",
    ],
)
def test_case_21_globals(refuse_pickle: Refuse, name: str) -> None:
    pickle = b"\x80\x02" + tf.global_(name) + tf.text("touch owned") + b"\x85R."
    assert f"refers to {name}, which is not allowed" in refuse_pickle(pickle)


def test_case_21_nothing_runs(
    tmp_path: Path, refuse_pickle: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("a file ran a command"))
    command = tf.text("touch owned")
    refuse_pickle(b"\x80\x02" + tf.global_("os.system") + command + b"\x85R.")
    refuse_pickle(b"\x80\x02(" + command + b"ios\nsystem\n.")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("pickle", "what"),
    [
        (b"\x80\x02(" + tf.text("true") + b"ios\nsystem\n.", "opcode b'i'"),  # INST
        (b"\x80\x02(" + tf.text("os") + b"o.", "opcode b'o'"),  # OBJ
        (b"\x80\x02)\x81.", "opcode b'\\x81'"),  # NEWOBJ
        (b"\x80\x02\x82\x01.", "opcode b'\\x82'"),  # EXT1
        (b"\x80\x02P1\n.", "opcode b'P'"),  # PERSID
        (b"\x80\x02" + tf.text("os") * 2 + b"\x93.", "opcode b'\\x93'"),  # STACK_GLOBAL
        (b"\x80\x04}.", "protocol 4"),
        (b"\x80\x02" + tf.text("f") + b")R.", "calls what is not allowed"),
        (b"\x80\x02" + tf.global_("torch.FloatStorage") + b")R.", "calls what is not allowed"),
        (b"\x80\x02" + tf.global_("collections.OrderedDict") + b"]R.", "is no tuple"),
        (b"\x80\x02" + tf.global_("collections.OrderedDict") + b"K\x01\x85R.", "begins empty"),
        (b"\x80\x02" + tf.global_("torch._utils._rebuild_tensor_v2") + b")R.", "other values"),
        (b"\x80\x02" + tf.global_("torch._utils._rebuild_parameter") + b")R.", "other values"),
        (b"\x80\x02K\x01Q.", "no storage"),
        (b"\x80\x02" + tf.global_("collections.OrderedDict") + b"}b.", "gives state"),
        (b"\x80\x02}}" + tf.text("__class__") + b"Nsb.", "gives state"),
        (b"\x80\x02.", "stack is empty"),
        (b"\x80\x02(.", "stack is empty"),
        (b"\x80\x02t.", "no mark"),
        (b"\x80\x02h\x07.", "number 7"),
        (b"\x80\x02Na.", "stack is empty"),
        (b"\x80\x02NNa.", "no list"),
        (b"\x80\x02}NNs.", "no text as a key"),
        (b"\x80\x02}(NNu.", "no text as a key"),
        (b"\x80\x02}" + (tf.text("a") + b"Ns") * 2 + b".", "set twice"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "too long"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "UTF-8"),
        (b"\x80\x02\x8a\xff" + bytes(255) + b".", "64 bits"),
        (b"\x80\x02c" + b"a" * 10_000 + b"\n.", "too long"),
        (b"\x80\x02}", "0 are left"),
        (b"\x80\x02N.", "dict of tensors"),
        (b"\x80\x02}" + tf.text("a") + b"Ns.", "is not a tensor"),
        (b"", "0 are left"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_case_21_opcodes(refuse_pickle: Refuse, pickle: bytes, what: str) -> None:
    assert what in refuse_pickle(pickle)


def memo_bomb() -> bytes:
    """Tuples of tuples, each twice the one before: 2 ** 60 leaves in 400 bytes."""
    step = b"".join(
        b"h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    return b"\x80\x02)q\x00" + step


@pytest.mark.parametrize(
    "pickle",
    [
        memo_bomb() + b".",
        b"\x80\x02}" + memo_bomb()[2:] + b"Ns.",  # hashing it as a key would never end
        memo_bomb() + b"Q.",
        memo_bomb() + tf.global_("torch._utils._rebuild_tensor_v2") + b"h\x3cR.",
        b"\x80\x02]q\x00h\x00a.",  # a list in itself
        b"\x80\x02" + b"]" * 100_000 + b".",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b")" + b"\x85" * 200_000 + b".",
        b"\x80\x02" + b"]" + b"Na" * 300_000 + b".",
        b"\x80\x02" + b"Nr\xff\xff\xff\xff" * 10 + b".",
    ],
    ids=["bomb", "key", "persid", "reduce", "cycle", "lists", "marks", "deep", "long", "memo"],
)
def test_case_21_bombs(tmp_path: Path, pickle: bytes) -> None:
    path = tmp_path / "bomb.pth"
    path.write_bytes(tf.archive(pickle, DATA))
    refused(path, TorchFile)


def test_case_21_a_pickle_that_is_too_long(
    refuse_pickle: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymixtral.formats.torch_checkpoint.MAX_PICKLE_BYTES", 100)
    assert "bytes long" in refuse_pickle(b"\x80\x02" + b"N" * 100)


# ---- 22: tensors and storages ----


@pytest.mark.parametrize(
    ("opcodes", "what"),
    [
        (tf.tensor("0", 6, (2, 3), (4, 1)), "runs past its storage"),
        (tf.tensor("0", 6, (2, 3), (3, 1), offset=1), "runs past its storage"),
        (tf.tensor("0", 6, (7,), (1,)), "runs past its storage"),
        (tf.tensor("0", 6, (2**40,), (0,)), "more than once"),
        (tf.tensor("0", 6, (3, 3), (1, 1)), "more than once"),
        (tf.tensor("0", 6, (2**62, 2**62), (1, 1)), "runs past its storage"),
        (tf.tensor("0", 6, (2**31, 2**31, 2), (2**40, 2**40, 2**40)), "runs past its storage"),
        (tf.tensor("0", 6, (-2,), (1,)), "no number of 0 or more"),
        (tf.tensor("0", 6, (2,), (-1,)), "no number of 0 or more"),
        (tf.tensor("0", 6, (2,), (1,), offset=-1), "no number of 0 or more"),
        (tf.tensor("0", 6, (2, 3), (1,)), "2 sizes and 1 strides"),
        (tf.tensor("0", 1, (1,) * 9, (1,) * 9), "9 sizes"),
        (tf.tensor("0", -6, (2, 3), (3, 1)), "describes no storage"),
        (tf.tensor("0", 7, (2, 3), (3, 1)), "7 values of F32 do not take 24 bytes"),
        (tf.tensor("0", 6, (2, 3), (3, 1), dtype="F16"), "6 values of F16 do not take 24 bytes"),
        (tf.tensor("0", 2**62, (2, 3), (3, 1)), "do not take 24 bytes"),
        (tf.tensor("1", 6, (2, 3), (3, 1)), "has no archive/data/1"),
        (tf.tensor("../0", 6, (2, 3), (3, 1)), "has no archive/data/../0"),
    ],
)
def test_case_22_tensors(refuse_pickle: Refuse, opcodes: bytes, what: str) -> None:
    assert what in refuse_pickle(tf.pickle_of({"a": opcodes}))


# ---- 22: zip files ----


def zip_of(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", compression) as file:
        warnings.simplefilter("ignore")  # zipfile's, of names that it has already
        for name, content in entries:
            file.writestr(name, content)
    return out.getvalue()


PICKLE = ("archive/data.pkl", tf.pickle_of({"a": GOOD}))
STORAGE = ("archive/data/0", bytes(24))


def test_case_22_zip_bomb(refuse: Refuse) -> None:
    content = zip_of(PICKLE, ("archive/data/0", bytes(10**7)), compression=zipfile.ZIP_DEFLATED)
    assert "is compressed" in refuse(content)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../b", "..\\b", "C:b", "a\0b".replace("\0", ":")]
)
def test_case_22_zip_slip(refuse: Refuse, name: str) -> None:
    assert "leads out of the archive" in refuse(zip_of(PICKLE, STORAGE, (name, b"x")))


def test_case_22_duplicate_entries(refuse: Refuse) -> None:
    assert "appears twice" in refuse(zip_of(PICKLE, STORAGE, STORAGE))
    assert "appears twice" in refuse(zip_of(PICKLE, PICKLE, STORAGE))


@pytest.mark.parametrize(
    "entries", [[STORAGE], [PICKLE, ("b/data.pkl", b".")], [("data.pkl", b".")], []]
)
def test_case_22_pickles_missing_or_several(
    refuse: Refuse, entries: list[tuple[str, bytes]]
) -> None:
    assert "none, or several" in refuse(zip_of(*entries) or b"")


def test_case_22_too_many_entries(refuse: Refuse) -> None:
    content = bytearray(zip_of(PICKLE, STORAGE))
    struct.pack_into("<2H", content, len(content) - 14, MAX_ENTRIES + 1, MAX_ENTRIES + 1)
    assert "too many" in refuse(bytes(content))


def patched(signature: bytes, at: int, layout: str, value: int, nth: int = 0) -> bytes:
    """A good archive with one field of a record changed."""
    content = bytearray(zip_of(PICKLE, STORAGE))
    position = -1
    for _ in range(nth + 1):
        position = content.index(signature, position + 1)
    struct.pack_into(layout, content, position + at, value)
    return bytes(content)


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (patched(CENTRAL, 8, "<H", 1), "encrypted"),
        (patched(CENTRAL, 24, "<I", 10**6), "claims 1000000 bytes"),
        (patched(CENTRAL, 20, "<I", 2**32 - 1), "zip64"),
        (patched(CENTRAL, 42, "<I", 10**6), "past the end of the file"),
        (patched(CENTRAL, 42, "<I", 0, nth=1), "disagrees with the directory"),
        (patched(CENTRAL, 28, "<H", 60_000), "are left"),
        (patched(LOCAL, 26, "<H", 3), "disagrees with the directory"),
        (patched(LOCAL, 28, "<H", 60_000), "end past the file"),
        (patched(LOCAL, 28, "<H", 100), "overlaps"),
        (patched(END, 16, "<I", 10**6), "past the end"),
        (patched(END, 12, "<I", 2**31), "too many"),
        (patched(END, 8, "<H", 1), "several volumes"),
        (patched(END, 4, "<H", 1), "several volumes"),
        (patched(END, 20, "<H", 5), "not followed by the end"),
        (patched(CENTRAL, 16, "<I", 7), "CRC differs"),
        (patched(CENTRAL, 0, "<I", 7), "no directory record"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_case_22_damaged_records(refuse: Refuse, content: bytes, what: str) -> None:
    assert what in refuse(content)


def test_case_22_big_endian(refuse: Refuse) -> None:
    content = zip_of(PICKLE, STORAGE, ("archive/byteorder", b"big"))
    assert "only little-endian" in refuse(content)


def read_everything(path: Path) -> None:
    file = TorchFile(path)
    for name in file.tensors:
        values, _ = file.stored(name)
        assert np.asarray(values).shape == file.shape(name)
    file.close()


CONTENT = tf.checkpoint({"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.float32)}, "F32")


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages(len(CONTENT)))
def test_damaged_bytes_cause_no_other_error(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "damaged.pth"
    path.write_bytes(damaged(CONTENT, damage))
    assert refusal(path, read_everything).isprintable()


OPCODES = st.sampled_from([*torch_pickle._OPCODES, b".", GOOD, tf.text("a"), tf.number(3)])


@settings(max_examples=500)
@given(st.lists(OPCODES, max_size=40))
def test_random_opcodes_cause_no_other_error(opcodes: list[bytes]) -> None:
    pickle = b"\x80\x02" + b"".join(opcodes) + bytes(8)
    try:
        found = torch_pickle.read_torch_pickle(Path("random"), memoryview(pickle), 1)
    except FormatError as error:
        assert str(error).isprintable()  # noqa: PT017 - any pickle may be good, too
    else:
        assert isinstance(found, dict)


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    for n in range(len(CONTENT)):
        path.write_bytes(CONTENT[:n])
        assert refusal(path, read_everything)
    path.write_bytes(CONTENT)
    assert not refusal(path, read_everything)
