"""The rooms and who may enter them (docs/architecture.md): no import goes the wrong way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Module -> modules of the project that it may import; cli modules may import everything.
FORMATS = "pymixtral.formats"
ALLOWED: dict[str, set[str]] = {
    "pymixtral": {"batch", "completion", "engine", "errors", "llm", "sampling", FORMATS},
    "errors": set(),
    "memory": {"errors"},
    "engine": {"engine", "errors", "_cengine"},
    "sentencepiece_model": {FORMATS},
    "sentencepiece_encoder": {"errors", "sentencepiece_model", FORMATS},
    "byte_level_encoder": {"errors", FORMATS},
    "tokenizer": {"byte_level_encoder", "errors", "sentencepiece_encoder", FORMATS},
    "chat": {"chat", "errors", "tokenizer", FORMATS},
    "sampling": {"errors"},
    "packer": {"engine", FORMATS},
    "loader": {"engine", "errors", "memory", "packer", FORMATS},
    "generate": {"engine", "errors", "sampling", "tokenizer"},
    "batch": {"engine", "errors", "generate", "sampling"},
    "completion": {"chat", "errors", "generate", "tokenizer"},
    "llm": {
        "batch", "chat", "completion", "engine", "errors", "generate", "loader", "memory",
        "sampling", "tokenizer",
    },
    "quantizer": {"engine", FORMATS},
    "roofline": {"engine", "memory", FORMATS},
    "chunks": {"errors", "llm"},
    "experts": {"engine", "errors", "llm"},
    "perplexity": {"chunks", "engine", "errors", "llm"},
    "divergence": {"chunks", "engine", "errors", "llm", "perplexity"},
    "calibration": {"engine", "errors", "llm", FORMATS},
    "__main__": {"cli"},
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Modules of the project that a file imports, `pymixtral.` taken off."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [str(node.module)] if node.module != "pymixtral" else names
        else:
            continue
        for name in names:
            if name.startswith(FORMATS):
                found.add(FORMATS)
            elif name.startswith("pymixtral."):
                found.add(name.split(".")[1])
            elif name == "pymixtral":
                found.add("pymixtral")
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pymixtral").glob("*.py")), ids=lambda path: path.stem
)
def test_library_module_imports(path: Path) -> None:
    module = "pymixtral" if path.stem == "__init__" else path.stem
    assert imported(path) <= ALLOWED[module]


@pytest.mark.parametrize("room", ["chat", "engine"])
def test_room_imports(room: str) -> None:
    for path in (ROOT / "pymixtral" / room).glob("*.py"):
        assert imported(path) <= ALLOWED[room], path


@pytest.mark.parametrize(
    "path", sorted((ROOT / "formats").glob("*.py")), ids=lambda path: path.stem
)
def test_formats_stands_alone(path: Path) -> None:
    assert imported(path) <= {FORMATS}


def test_only_engine_imports_the_extension() -> None:
    for path in (ROOT / "pymixtral").rglob("*.py"):
        if path.parent.name != "engine":
            assert "_cengine" not in imported(path), path


def test_formats_does_not_load_the_engine() -> None:
    code = "import sys, pymixtral.formats; sys.exit('pymixtral._cengine' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_program_starts_no_threads_of_numpy() -> None:
    code = "import os, pymixtral.cli.run; print(len(os.listdir('/proc/self/task')))"
    command = [sys.executable, "-c", code]
    env = {name: value for name, value in os.environ.items() if "OPENBLAS" not in name}
    assert subprocess.run(command, env=env, check=True, capture_output=True).stdout == b"1\n"


def test_posix_is_confined() -> None:
    """So that other systems can follow: see docs/decisions."""
    posix = {"pthread.h", "unistd.h", "sched.h", "sys/", "fcntl.h"}
    for path in sorted((ROOT / "cengine").rglob("*.[ch]")):
        if path.name in {"pool.c", "cpu.c", "mapping.c", "pages.c", "read_ahead.c"}:
            continue
        text = path.read_text(encoding="utf-8")
        assert not [header for header in posix if f"#include <{header}" in text], path


def test_roles_and_types_match_the_header() -> None:
    from pymixtral._cengine import lib

    from pymixtral.engine import TENSOR_TYPES
    from pymixtral.formats.blocks import TYPES
    from pymixtral.formats.names import TensorRole

    assert {role.name: role.value for role in TensorRole} == {
        role.name: getattr(lib, f"CE_{role.name}") for role in TensorRole
    }
    assert len(TensorRole) == lib.CE_N_ROLES
    for name, type_id in TENSOR_TYPES.items():
        block = TYPES[type_id]
        assert block.name == name
        assert lib.ce_row_bytes(type_id, 2 * block.block_size) == 2 * block.type_size
