"""The C engine's error codes as exceptions, in one place."""

from __future__ import annotations

from typing import Any

from pymixtral._cengine import ffi, lib
from pymixtral.errors import (
    ContextError,
    EngineError,
    EvalCancelled,
    ForkedError,
    InsufficientMemoryError,
    ModelLoadError,
    ParameterError,
    PymixtralError,
)

_EXCEPTIONS: dict[int, type[PymixtralError]] = {
    lib.CE_ERR_ARGUMENT: ParameterError,
    lib.CE_ERR_MEMORY: InsufficientMemoryError,
    lib.CE_ERR_MODEL: ModelLoadError,
    lib.CE_ERR_TIER: ParameterError,
    lib.CE_ERR_CONTEXT: ContextError,
    lib.CE_ERR_CANCELLED: EvalCancelled,
    lib.CE_ERR_NUMERIC: EngineError,
    lib.CE_ERR_FORKED: ForkedError,
    lib.CE_ERR_THREADS: EngineError,
    lib.CE_ERR_BUSY: EngineError,
}


def exception(code: int, error: Any) -> PymixtralError:
    return _EXCEPTIONS[code](ffi.string(error.message).decode())


def check(code: int, error: Any) -> None:
    if code != lib.CE_OK:
        raise exception(code, error)


def item_exception(status: int, code: int, error: Any) -> PymixtralError:
    """The batch's message belongs to the first status that failed, which `code` is."""
    if status == code:
        return exception(code, error)
    return _EXCEPTIONS[status](f"this item of the batch failed (code {status})")
