"""Builds ``pymixtral._cengine``, one abi3 extension that holds every instruction-set tier.

The declarations are the text of ``include/cengine.h`` between its two marker comments, so that
the header is the only place where the API is written down. The C code itself is compiled by
setup.py into static libraries, one per instruction set, which this extension links.
"""

from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent
HEADER = ROOT / "include" / "cengine.h"


def declarations() -> str:
    """The part of the header that cffi understands."""
    text = HEADER.read_text(encoding="utf-8")
    _, begin, rest = text.partition("/* cffi: begin */")
    body, end, _ = rest.partition("/* cffi: end */")
    if not begin or not end:
        raise SystemExit(f"{HEADER}: the cffi markers are missing")
    return body


ffibuilder = FFI()
ffibuilder.cdef(
    declarations() + '\nextern "Python" void ce_tap_to_python(void *, const ce_tap_event *);\n'
)
ffibuilder.set_source(
    "pymixtral._cengine",
    '#include "cengine.h"\n',
    include_dirs=[str(HEADER.parent)],
    libraries=["m", "pthread"],
    py_limited_api=True,
)
