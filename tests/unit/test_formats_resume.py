"""Conversions that are killed, interrupted, or run out of disk: cases 37 and 38."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from full_disk import run_out_of_disk
from hf_folders import weights, write_folder
from mistral_folders import write_original

from pymixtral.formats import FormatError, convert, open_gguf
from pymixtral.formats.convert import Conversion
from pymixtral.formats.partial import find_partials

OLD = b"the old file"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "CHUNK_VALUES", 1 << 10)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "hf")


def run(source: Path, out: Path, progress: object = None, *, resume: bool = True) -> int:
    """Convert; returns how many tensors were taken over."""
    with Conversion(source, out, "q8_0", name="same") as conversion:
        return conversion.run(progress, resume=resume, threads=2).n_resumed  # type: ignore[arg-type]


def in_child(work: Callable[[], object], kill_after: float | None = None) -> int:
    """Do `work` in a fork, perhaps killing it with SIGKILL; returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("expected") / "out.gguf"
    run(source, out, resume=False)
    return out.read_bytes()


def killer(at: int) -> Callable[..., None]:
    """A progress function that kills its process at call number `at`."""
    calls = iter(range(at + 1))

    def progress(*_: object) -> None:
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return progress


@pytest.mark.parametrize("at", [0, 5, 40, 77, 120])
def test_a_killed_run_is_resumed(source: Path, tmp_path: Path, expected: bytes, at: int) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(OLD)
    status = in_child(lambda: run(source, out, killer(at), resume=False))
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert out.read_bytes() == OLD
    (partial,) = find_partials(out)
    names = list(open_names(expected, tmp_path))
    n_resumed = run(source, out)
    assert (n_resumed > 0) == (at > 5)
    assert n_resumed < len(names)
    assert out.read_bytes() == expected
    assert not partial.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expected.gguf", "out.gguf"]


def open_names(content: bytes, folder: Path) -> list[str]:
    path = folder / "expected.gguf"
    path.write_bytes(content)
    with open_gguf(path) as found:
        return list(found.tensors)


def kill_at_random_times(source: Path, folder: Path, expected: bytes, n: int, seed: int) -> int:
    """Kills each run, then resumes and kills that, until one ends; returns the number of kills."""
    chance = random.Random(seed)
    out = folder / "out.gguf"
    started = time.perf_counter()
    assert in_child(lambda: run(source, out)) == 0
    usual = time.perf_counter() - started
    n_kills = 0
    while n_kills < n:
        out.write_bytes(OLD)
        while True:
            status = in_child(lambda: run(source, out), chance.uniform(0, 1.1 * usual))
            n_kills += os.WIFSIGNALED(status)
            assert out.read_bytes() in (OLD, expected)
            if not os.WIFSIGNALED(status):
                assert status == 0
                break
        assert out.read_bytes() == expected
        leftovers = [path.name for path in folder.iterdir() if path != out]
        assert not [name for name in leftovers if not name.startswith(".out.gguf.")]
        for name in leftovers:  # of a run that was killed between its rename and its end
            (folder / name).unlink()
    return n_kills


def test_killed_at_random_times(source: Path, tmp_path: Path, expected: bytes) -> None:
    assert kill_at_random_times(source, tmp_path, expected, 12, seed=1) >= 12


@pytest.mark.slow
def test_killed_at_200_random_times(source: Path, tmp_path: Path, expected: bytes) -> None:
    assert kill_at_random_times(source, tmp_path, expected, 200, seed=2) >= 200


def interrupted(source: Path, out: Path, *, resume: bool) -> None:
    calls = iter(range(100))

    def progress(*_: object) -> None:
        if next(calls) == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, out, progress, resume=resume)


def test_ctrl_c_leaves_no_trace(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(OLD)
    interrupted(source, out, resume=False)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [OLD]


def test_ctrl_c_of_a_resumable_run(source: Path, tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "out.gguf"
    interrupted(source, out, resume=True)
    assert run(source, out) > 0
    assert out.read_bytes() == expected


def damage_data(partial: Path) -> None:
    with open(partial, "rb+") as file:
        file.seek(-3000, os.SEEK_END)
        file.write(b"damage")


def zero_the_end(partial: Path) -> None:
    """As after a loss of power: the length is there, the pages are not."""
    size = partial.stat().st_size
    os.truncate(partial, size // 2)
    os.truncate(partial, size)


def damage_header(partial: Path) -> None:
    with open(partial, "rb+") as file:
        file.seek(30)
        file.write(b"damage")


def tear_journal(partial: Path) -> None:
    journal = partial.with_name(f"{partial.name}.journal")
    os.truncate(journal, journal.stat().st_size - 5)


def drop_journal(partial: Path) -> None:
    partial.with_name(f"{partial.name}.journal").unlink()


@pytest.mark.parametrize(
    "damage", [damage_data, zero_the_end, damage_header, tear_journal, drop_journal]
)
def test_only_good_parts_are_taken_over(
    source: Path, tmp_path: Path, expected: bytes, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "out.gguf"
    interrupted(source, out, resume=True)
    damage(find_partials(out)[0])
    run(source, out)
    assert out.read_bytes() == expected


def test_another_job_is_not_taken_over(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    interrupted(source, out, resume=True)
    other = write_original(tmp_path / "other", {n: 2 * a for n, a in weights().items()})
    assert run(other, out) == 0
    with open_gguf(out) as found:
        assert (found.array("output.weight") == 2 * weights()["lm_head.weight"]).mean() < 1


def test_a_file_that_is_being_written_is_not_taken_over(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    seen: list[list[Path]] = []
    run(source, out, lambda *_: seen.append(find_partials(out)))
    assert seen[1:]
    assert not any(seen)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_bytes(
    source: Path, tmp_path: Path, expected: bytes, threads: int
) -> None:
    out = tmp_path / "out.gguf"
    with Conversion(source, out, "q8_0", name="same") as conversion:
        conversion.run(threads=threads)
    assert out.read_bytes() == expected


def test_a_full_disk_is_told_before(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(OLD)
    monkeypatch.setattr(Conversion, "n_free", 1000)
    with pytest.raises(OSError, match=r"needs [\d,]+ bytes, 1,000 are free") as caught:
        run(source, out, resume=False)
    assert caught.value.filename == str(out)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [OLD]


def test_a_write_that_fails(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(OLD)
    result = run_out_of_disk("convert", source, out)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"error: {out}: File too large"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [OLD]


@pytest.mark.parametrize(
    ("out", "said"), [("none/out.gguf", "no such folder"), ("folder", "is a folder")]
)
def test_places_where_no_file_can_be(source: Path, tmp_path: Path, out: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=said):
        run(source, tmp_path / out, lambda *_: pytest.fail("found out too late"))


def test_output_equals_input(tmp_path: Path) -> None:
    folder = write_original(tmp_path / "src", weights())
    path = folder / "consolidated.00.pth"
    before = path.read_bytes()
    with pytest.raises(FormatError, match="is a source"):
        run(folder, path)
    assert path.read_bytes() == before
