"""Changing a model's metadata while its file is written anew."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .gguf import INTEGER_TYPES, SCALAR_LAYOUTS, GGUFFile, ValueType

_BOOLEANS = {"true": True, "false": False}

# Types of a new key's value: the first that can be read from its text.
_GUESSES = (ValueType.BOOL, ValueType.UINT32, ValueType.INT64, ValueType.FLOAT32, ValueType.STRING)


@dataclass(frozen=True, slots=True)
class MetadataEdits:
    """What to change.

    Attributes:
        changed: keys to the texts of their new values. A key keeps the type that it has in the
            file; a new one gets the first of BOOL (true, false), UINT32, INT64, FLOAT32 and STRING
            that fits.
        removed: keys to leave out.
    """

    changed: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


NO_EDITS = MetadataEdits()


def edited_metadata(
    gguf: GGUFFile, edits: MetadataEdits, replaced: Collection[str]
) -> Iterator[tuple[str, Any, ValueType]]:
    """Keys, values and types of the file's metadata after the edits.

    Args:
        replaced: keys that the caller writes itself: they are left out, and cannot be edited.

    Raises:
        FormatError: an edit is of such a key, of an array, removes what is not there, or sets a
            value that the key's type cannot hold.
    """
    for key in edits.removed:
        if key not in gguf.metadata:
            raise gguf.error(key, "is not there to be removed")
    for key in (*edits.changed, *edits.removed):
        if key in replaced:
            raise gguf.error(key, "cannot be edited: it follows from how the file is written")
    for key, value in gguf.metadata.items():
        if key not in replaced and key not in edits.changed and key not in edits.removed:
            yield key, value, gguf.types[key]
    for key, text in edits.changed.items():
        yield key, *_parsed(gguf, key, text)


def _parsed(gguf: GGUFFile, key: str, text: str) -> tuple[Any, ValueType]:
    known = gguf.types.get(key)
    if known is ValueType.ARRAY:
        raise gguf.error(key, "is an array, which cannot be set")
    for kind in _GUESSES if known is None else (known,):
        try:
            return _read(text, kind), kind
        except (ValueError, KeyError, OverflowError, struct.error):
            continue
    raise gguf.error(key, f"{text!r} is no value of its type, {known.name if known else ''}")


def _read(text: str, kind: ValueType) -> Any:
    if kind is ValueType.STRING:
        return text
    if kind is ValueType.BOOL:
        return _BOOLEANS[text.lower()]
    value = int(text) if kind in INTEGER_TYPES else float(text)
    SCALAR_LAYOUTS[kind].pack(value)  # raises where the type's range ends
    return value
