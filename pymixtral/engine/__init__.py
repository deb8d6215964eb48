"""The C engine as Python objects: the only room that imports `pymixtral._cengine`."""

from pymixtral.engine.description import (
    KV_TYPES,
    TENSOR_TYPES,
    EngineOptions,
    EngineTensor,
    HParamsLike,
    is_repackable,
    kv_bytes,
    repack_version,
    scratch_bytes,
)
from pymixtral.engine.engine import Engine, EvalItem, Logits, Phase, Session
from pymixtral.engine.machine import default_threads, explain_bus_errors, tiers
from pymixtral.engine.rows import REPACKED_ROWS, dequantize_rows, quantize_rows, repack_rows
from pymixtral.engine.tap import TapEvent

__all__ = [
    "KV_TYPES",
    "REPACKED_ROWS",
    "TENSOR_TYPES",
    "Engine",
    "EngineOptions",
    "EngineTensor",
    "EvalItem",
    "HParamsLike",
    "Logits",
    "Phase",
    "Session",
    "TapEvent",
    "default_threads",
    "dequantize_rows",
    "explain_bus_errors",
    "is_repackable",
    "kv_bytes",
    "quantize_rows",
    "repack_rows",
    "repack_version",
    "scratch_bytes",
    "tiers",
]
