"""How much memory a model will take, and how much there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pymixtral.errors import InsufficientMemoryError

GB = 1_000_000_000

MEMINFO = Path("/proc/meminfo")
OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a model takes once every expert has been used.

    Attributes:
        weights: the tensors, mapped from the file or read into memory.
        kv_cache: the sessions' keys and values, when their contexts are full.
        scratch: the engine's working memory.
    """

    weights: int
    kv_cache: int
    scratch: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.scratch

    def fits(self, available: int | None) -> bool:
        """Whether that many bytes are enough; yes if it is unknown how many there are."""
        return available is None or self.total <= available

    def __str__(self) -> str:
        return (
            f"{format_gb(self.total)} (weights {format_gb(self.weights)}, KV cache "
            f"{format_gb(self.kv_cache)}, scratch {format_gb(self.scratch)})"
        )


def format_gb(n_bytes: int) -> str:
    """Bytes as GB or MB of 10^9 or 10^6."""
    return f"{n_bytes / GB:.2f} GB" if n_bytes >= GB else f"{n_bytes / 1_000_000:.1f} MB"


def check_fits(need: MemoryNeed, n_ctx: int, available: int | None, n_sessions: int = 1) -> None:
    """Refuses a model that does not fit.

    Args:
        need: what the model takes.
        n_ctx: the context that `need.kv_cache` is for, in each of `n_sessions`.
        available: bytes that are free for it; None if unknown, which refuses nothing.

    Raises:
        InsufficientMemoryError: with the numbers, and what to change.
    """
    if available is None or need.fits(available):
        return
    advice = ", or ".join(_advice(need, n_ctx, available, n_sessions))
    raise InsufficientMemoryError(
        f"not enough memory: {need} are needed, {format_gb(available)} are available; {advice}, "
        "or skip this check (--no-memory-check, check_memory=False)"
    )


def _advice(need: MemoryNeed, n_ctx: int, available: int, n_sessions: int) -> list[str]:
    """What would fit."""
    spare = available - need.weights - need.scratch
    part = max(0.0, spare / need.kv_cache) if need.kv_cache else 0.0
    shorter, fewer = int(n_ctx * part), int(n_sessions * part)
    advice = []
    if shorter >= min(n_ctx, 512):
        advice.append(f"use a context of at most {shorter} instead of {n_ctx}")
    if n_sessions > 1 and fewer >= 1:
        advice.append(f"answer at most {fewer} prompts at a time instead of {n_sessions}")
    if advice:
        return advice
    if need.weights + need.kv_cache <= available:
        return ["use fewer batch_rows"]
    return ["use a file with fewer bits per weight, or a machine with more memory"]


def available_bytes() -> int | None:
    """Memory that this process can still take: the least of the machine's and its cgroups'.

    Page cache counts as available, for it is given up on demand. None where the operating system
    does not tell (anything but Linux).
    """
    limits = [limit for limit in (_machine_available(), *_cgroups_available()) if limit is not None]
    return min(limits, default=None)


def _machine_available() -> int | None:
    for line in _read(MEMINFO).splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _cgroups_available() -> Iterator[int | None]:
    """What each cgroup from this process's own up to the root leaves."""
    for line in _read(OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, left = CGROUP_ROOT, _v2_left
        elif controllers == "memory":
            root, left = CGROUP_ROOT / "memory", _v1_left
        else:
            continue
        yield from _climb(root, path, left)


def _climb(root: Path, path: str, left: Callable[[Path], int | None]) -> Iterator[int | None]:
    group = root / path.lstrip("/")
    while True:
        yield left(group)
        if group == root or root not in group.parents:
            return
        group = group.parent


def _v2_left(group: Path) -> int | None:
    return _left(group, "memory.max", "memory.current", "file")


def _v1_left(group: Path) -> int | None:
    return _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")


def _left(group: Path, limit_file: str, usage_file: str, cache_key: str) -> int | None:
    limit, usage = _read(group / limit_file).strip(), _read(group / usage_file).strip()
    if not (limit.isdigit() and usage.isdigit()):
        return None  # "max", or no such cgroup from here
    statistics = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    return max(0, int(limit) - int(usage) + int(statistics.get(cache_key, 0)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
