"""What the tests of hostile files share: what each refusal promises, and damage to good bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from cpu_time import bounded_cpu_time
from hypothesis import strategies as st

from pymixtral.formats import FormatError

CPU_SECONDS = 0.1

Damage = list[tuple[int, bytes]]  # what is written over a good file, and where
Read = Callable[[Path], object]
E = TypeVar("E", bound=Exception)


def refused(path: Path, read: Read, kind: type[E] | tuple[type[E], ...] = FormatError) -> E:
    """The error of reading `path`: it comes quickly, and is one line."""
    with bounded_cpu_time(CPU_SECONDS), pytest.raises(kind) as caught:
        read(path)
    assert str(caught.value).isprintable()
    return caught.value


def refusal(path: Path, read: Read, kind: type[E] | tuple[type[E], ...] = FormatError) -> str:
    """The error line of reading `path`; empty where it is good. Other errors are the test's."""
    try:
        read(path)
    except kind as error:
        return str(error)
    return ""


def damages(n_bytes: int, longest: int = 4) -> st.SearchStrategy[Damage]:
    """One to four places in the first `n_bytes` of a file, with up to `longest` bytes each."""
    place = st.tuples(st.integers(0, n_bytes), st.binary(min_size=1, max_size=longest))
    return st.lists(place, min_size=1, max_size=4)


def damaged(content: bytes, damage: Damage) -> bytes:
    """The content with each place written over."""
    changed = bytearray(content)
    for position, new in damage:
        changed[position : position + len(new)] = new
    return bytes(changed)
