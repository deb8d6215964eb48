"""The build: C libraries per instruction set, the extension that links them, the package map.

Everything that is not about building C is in pyproject.toml.
"""

import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

CENGINE = Path("cengine")


def read_flags() -> dict[str, list[str]]:
    """The NAME = value lines of cengine/flags.mk, which the Makefile includes as well."""
    text = (CENGINE / "flags.mk").read_text(encoding="utf-8")
    return {name: value.split() for name, value in re.findall(r"^(\w+) *=(.*)$", text, re.M)}


FLAGS = read_flags()
EXTRA_FLAGS = os.environ.get("CFLAGS_EXTRA", "").split()  # the sanitizers', of `make asan`
HEADERS = sorted(str(p) for p in CENGINE.rglob("*.h"))
INCLUDES = [str(CENGINE / "include"), str(CENGINE / "kernels"), str(CENGINE / "src"), str(CENGINE)]


def library(name: str, flags: str, sources: list[Path]) -> tuple[str, dict[str, object]]:
    """A static library of C files that share compiler flags; headers are its dependencies."""
    paths = sorted(str(p) for p in sources)
    return name, {
        "sources": paths,
        "include_dirs": INCLUDES,
        "cflags": FLAGS["CFLAGS_COMMON"] + FLAGS[flags] + EXTRA_FLAGS,
        "obj_deps": {"": HEADERS + ["cengine/flags.mk"]},
    }


def kernels(prefix: str) -> list[Path]:
    return list((CENGINE / "kernels").glob(f"{prefix}*.c"))


TIERS = {
    "x86_64": ["amx", "avx512vnni", "avxvnni", "avx2"],
    "aarch64": ["i8mm", "neon"],
}
MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
LIBRARIES = [
    # Linked in this order: a library before those that it calls.
    library("ce_core", "CFLAGS_GENERIC", list((CENGINE / "src").glob("*.c"))),
    *(
        library(f"ce_{tier}", f"CFLAGS_{tier.upper()}", kernels(tier))
        for tier in TIERS.get(MACHINE, [])
    ),
    library("ce_generic", "CFLAGS_GENERIC", kernels("generic")),
]


class BuildClib(build_clib):
    """Compiles the libraries side by side: they wait for separate compilers, not for Python."""

    def build_libraries(self, libraries):  # type: ignore[no-untyped-def]
        build_one = super().build_libraries
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda library: build_one([library]), libraries))


class BuildExt(build_ext):
    """Relinks the extension when one of the static libraries has been rebuilt."""

    def build_extension(self, ext):  # type: ignore[no-untyped-def]
        libraries = Path(self.get_finalized_command("build_clib").build_clib)
        ext.depends = [*ext.depends, *map(str, libraries.glob("lib*.a"))]
        super().build_extension(ext)


setup(
    include_package_data=False,  # package_data below says it all
    packages=[
        "pymixtral",
        "pymixtral.chat",
        "pymixtral.cli",
        "pymixtral.engine",
        "pymixtral.formats",
    ],
    package_dir={"pymixtral": "pymixtral", "pymixtral.formats": "formats"},
    package_data={"pymixtral": ["py.typed", "models/*"]},
    libraries=LIBRARIES,
    cffi_modules=["cengine/ffi_build.py:ffibuilder"],
    cmdclass={"build_clib": BuildClib, "build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for Python 3.11 and up
)
