"""`pymixtral info`: what this installation and this machine can do."""

from __future__ import annotations

import os
import platform
from typing import Any

import click

from pymixtral import __version__, engine
from pymixtral.cli.console import Console
from pymixtral.cli.options import console_options, shared
from pymixtral.loader import shipped_model
from pymixtral.memory import available_bytes, format_gb

TIER_VARIABLE = "PYMIXTRAL_TIER"


@click.command("info")
@shared("as_json")
@console_options
def command(console: Console, as_json: bool) -> None:
    """Print what this installation and this machine can do.

    With --json: {version, python, machine, tiers {name: whether the CPU has it}, tier (that is used
    by default), threads (by default), tensor_types, kv_types, memory_available (bytes, or null),
    shipped_model (path)}.

    \b
    Examples:
      pymixtral info
      PYMIXTRAL_TIER=avx2 pymixtral info --json
    """
    facts = _facts()
    if as_json:
        console.json(facts)
        return
    for label, text in _lines(facts).items():
        console.answer(f"{label:18}{text}\n")


def _facts() -> dict[str, Any]:
    tiers = engine.tiers()
    best = [name for name, is_supported in tiers.items() if is_supported][-1]
    return {
        "version": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "tiers": tiers,
        "tier": os.environ.get(TIER_VARIABLE) or best,
        "threads": engine.default_threads(),
        "tensor_types": list(engine.TENSOR_TYPES),
        "kv_types": list(engine.KV_TYPES),
        "memory_available": available_bytes(),
        "shipped_model": str(shipped_model()),
    }


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    memory = facts["memory_available"]
    return {
        "pymixtral": facts["version"],
        "Python": f"{facts['python']} on {facts['machine']}",
        "tiers": ", ".join(
            name if is_supported else f"{name} (not on this CPU)"
            for name, is_supported in facts["tiers"].items()
        ),
        "default tier": facts["tier"],
        "default threads": str(facts["threads"]),
        "weight types": ", ".join(facts["tensor_types"]),
        "KV cache types": ", ".join(facts["kv_types"]),
        "memory available": "unknown" if memory is None else format_gb(memory),
        "shipped model": facts["shipped_model"],
    }
