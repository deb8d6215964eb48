"""What this machine offers: instruction-set tiers and threads."""

from __future__ import annotations

from pymixtral._cengine import ffi, lib


def tiers() -> dict[str, bool]:
    """Instruction-set tiers that were compiled in, worst first, and whether this CPU has them."""
    found: dict[str, bool] = {}
    while (name := lib.ce_tier_name(len(found))) != ffi.NULL:
        found[ffi.string(name).decode()] = bool(lib.ce_tier_supported(len(found)))
    return found


def default_threads() -> int:
    """Threads that CPU affinity and the cgroup's quota allow."""
    return int(lib.ce_default_threads())


def explain_bus_errors(line: str) -> None:
    """For programs, not for libraries: end with `line` and exit code 1 where a mapped file turns
    out to have been truncated, instead of dying of SIGBUS without a word."""
    lib.ce_explain_bus_errors(line.encode()[:500] + b"\n")
