"""Runs Mixtral (sparse mixture-of-experts) models on the CPU.

>>> from pymixtral import LLM, SamplingParams
>>> LLM().generate("Once upon a time", SamplingParams(max_tokens=32)).text  # doctest: +SKIP

Names are imported when they are first used (PEP 562), so that `pymixtral.formats`, which only
needs numpy, does not load the C engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pymixtral.batch import Request as Request
    from pymixtral.completion import Completion as Completion
    from pymixtral.completion import CompletionStream as CompletionStream
    from pymixtral.completion import Usage as Usage
    from pymixtral.engine import Phase as Phase
    from pymixtral.errors import PymixtralError as PymixtralError
    from pymixtral.formats import FormatError as FormatError
    from pymixtral.llm import LLM as LLM
    from pymixtral.sampling import SamplingParams as SamplingParams

_HOMES = {
    "LLM": "pymixtral.llm",
    "Completion": "pymixtral.completion",
    "CompletionStream": "pymixtral.completion",
    "Usage": "pymixtral.completion",
    "Request": "pymixtral.batch",
    "SamplingParams": "pymixtral.sampling",
    "Phase": "pymixtral.engine",
    "PymixtralError": "pymixtral.errors",
    "FormatError": "pymixtral.formats",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
