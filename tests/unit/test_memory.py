"""What is available: the machine's memory and the limits of the cgroups above this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pymixtral import memory
from pymixtral.errors import InsufficientMemoryError
from pymixtral.memory import MemoryNeed, available_bytes, check_fits, format_gb


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GB available, and a process in /app/job without limits."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "CGROUP_ROOT", tmp_path / "fs")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8000000 kB\n")
    (tmp_path / "cgroup").write_text("0::/app/job\n")
    (tmp_path / "fs" / "app" / "job").mkdir(parents=True)
    return tmp_path


def limit(group: Path, limit: str, usage: int, cache: int, version: int = 2) -> None:
    names = {
        2: ("memory.max", "memory.current", "file"),
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    }[version]
    group.mkdir(parents=True, exist_ok=True)
    (group / names[0]).write_text(f"{limit}\n")
    (group / names[1]).write_text(f"{usage}\n")
    (group / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


def test_machine_alone(machine: Path) -> None:
    assert available_bytes() == 8_000_000 * 1024


def test_own_cgroup_counts_its_page_cache_as_free(machine: Path) -> None:
    limit(machine / "fs/app/job", "1000000", usage=700_000, cache=300_000)
    assert available_bytes() == 600_000


def test_parent_cgroup(machine: Path) -> None:
    limit(machine / "fs/app/job", "max", usage=10, cache=0)
    limit(machine / "fs/app", "5000", usage=1000, cache=0)
    assert available_bytes() == 4000


def test_version_1_cgroup(machine: Path) -> None:
    (machine / "cgroup").write_text("5:cpu,cpuacct:/x\n4:memory:/app\n")
    limit(machine / "fs/memory/app", "9000", usage=10_000, cache=500, version=1)
    assert available_bytes() == 0


def test_system_that_does_not_tell(machine: Path) -> None:
    (machine / "meminfo").unlink()
    (machine / "cgroup").unlink()
    assert available_bytes() is None
    check_fits(MemoryNeed(10**15, 1, 1), 8192, None)


def test_this_machine() -> None:
    found = available_bytes()
    assert found is None or 1_000_000 < found < 10**14


def test_refusal_says_what_to_change() -> None:
    need = MemoryNeed(weights=6_000, kv_cache=4_000, scratch=1_000)
    check_fits(need, 8192, 11_000)
    with pytest.raises(InsufficientMemoryError, match="at most 4096 instead of 8192"):
        check_fits(need, 8192, 9_000)
    with pytest.raises(InsufficientMemoryError, match="fewer bits per weight"):
        check_fits(need, 8192, 6_500)
    with pytest.raises(InsufficientMemoryError, match="at most 4 prompts at a time instead of 8"):
        check_fits(need, 8192, 9_000, n_sessions=8)
    with pytest.raises(InsufficientMemoryError, match="fewer batch_rows"):
        check_fits(replace(need, scratch=10**9), 8192, 11_000)


def test_format() -> None:
    assert format_gb(26_440_000_000) == "26.44 GB"
    assert format_gb(8_530_000) == "8.5 MB"
