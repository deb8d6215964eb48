"""How a model and its options are described to the C engine, and what they will cost in bytes."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pymixtral._cengine import ffi, lib
from pymixtral.errors import ParameterError

KV_TYPES = {"f16": lib.CE_TYPE_F16, "q8_0": lib.CE_TYPE_Q8_0, "f32": lib.CE_TYPE_F32}
TENSOR_TYPES = {
    "F32": lib.CE_TYPE_F32,
    "F16": lib.CE_TYPE_F16,
    "BF16": lib.CE_TYPE_BF16,
    "Q4_0": lib.CE_TYPE_Q4_0,
    "Q4_1": lib.CE_TYPE_Q4_1,
    "Q5_0": lib.CE_TYPE_Q5_0,
    "Q5_1": lib.CE_TYPE_Q5_1,
    "Q8_0": lib.CE_TYPE_Q8_0,
    "Q2_K": lib.CE_TYPE_Q2_K,
    "Q3_K": lib.CE_TYPE_Q3_K,
    "Q4_K": lib.CE_TYPE_Q4_K,
    "Q5_K": lib.CE_TYPE_Q5_K,
    "Q6_K": lib.CE_TYPE_Q6_K,
    "IQ4_NL": lib.CE_TYPE_IQ4_NL,
    "IQ4_XS": lib.CE_TYPE_IQ4_XS,
    "IQ3_XXS": lib.CE_TYPE_IQ3_XXS,
    "IQ3_S": lib.CE_TYPE_IQ3_S,
    "IQ2_XXS": lib.CE_TYPE_IQ2_XXS,
    "IQ2_XS": lib.CE_TYPE_IQ2_XS,
    "IQ2_S": lib.CE_TYPE_IQ2_S,
    "IQ1_S": lib.CE_TYPE_IQ1_S,
    "IQ1_M": lib.CE_TYPE_IQ1_M,
}


class HParamsLike(Protocol):
    """The hyperparameters that the engine needs (`pymixtral.formats.hparams.HParams` has them)."""

    @property
    def n_layers(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def ffn_dim(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def n_experts(self) -> int: ...
    @property
    def n_experts_used(self) -> int: ...
    @property
    def sliding_window(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def rope_theta(self) -> float: ...


_HPARAM_FIELDS = [name for name, _ in ffi.typeof("ce_hparams").fields]


def c_hparams(hparams: HParamsLike) -> Any:
    return ffi.new("ce_hparams *", {name: getattr(hparams, name) for name in _HPARAM_FIELDS})


@dataclass(frozen=True, slots=True)
class EngineTensor:
    """One tensor's place in the model, and its bytes.

    Attributes:
        role: a number of `ce_role` (`pymixtral.formats.names.TensorRole` has the same).
        layer: 0 for tensors of no layer.
        type: GGML's type number.
        ne: extents, fastest first.
        data: the bytes, contiguous; kept alive by the engine.
        expert: whose matrix it is; None: all experts', or not an expert's.
    """

    role: int
    layer: int
    type: int
    ne: tuple[int, ...]
    data: memoryview
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine runs. None stands for the default.

    Attributes:
        threads: 1 to 1024; default: as many as CPU affinity and the cgroup's quota allow.
        batch_rows: tokens that go through the layers together; default 512.
        tier: instruction-set tier; default: $PYMIXTRAL_TIER, or else the best that the CPU has.
    """

    threads: int | None = None
    batch_rows: int | None = None
    tier: str | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "batch_rows"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**31:
                raise ParameterError(f"{name} must be 1 or more, not {value}")

    def to_c(self) -> Any:
        """A ce_options, with its tier's text kept alive beside it."""
        tier = ffi.NULL if self.tier is None else ffi.new("char[]", self.tier.encode())
        options = ffi.new("ce_options *", (self.threads or 0, self.batch_rows or 0, tier))
        _kept_alive[options] = tier
        return options


_kept_alive: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def scratch_bytes(hparams: HParamsLike, options: EngineOptions) -> int:
    """Bytes of working memory that an engine of these hyperparameters allocates."""
    return int(lib.ce_engine_scratch_bytes(c_hparams(hparams), options.to_c()))


def kv_bytes(hparams: HParamsLike, n_ctx: int, kv_type: str = "f16") -> int:
    """Bytes of one session's KV cache.

    Raises:
        ParameterError: an unknown type, or one whose blocks do not divide the heads.
    """
    n_bytes = int(lib.ce_session_kv_bytes(c_hparams(hparams), n_ctx, c_kv_type(kv_type)))
    if n_bytes == 0:
        raise ParameterError(
            f"kv_type {kv_type} needs heads of a multiple of 32, and this model's have "
            f"{hparams.head_dim}; choose f16"
        )
    return n_bytes


def c_kv_type(name: str) -> int:
    if name not in KV_TYPES:
        raise ParameterError(f"kv_type must be one of {', '.join(KV_TYPES)}, not {name!r}")
    return int(KV_TYPES[name])


def repack_version() -> int:
    """The number of the layout that `repack_rows` writes."""
    return int(lib.ce_repack_version())


def is_repackable(role: int, type: int, ne: Sequence[int]) -> bool:
    """Whether a tensor's matrices can be repacked; see `EngineTensor` for the arguments."""
    c_one = ffi.new("ce_tensor *", {"role": role, "type": type, "n_dims": len(ne), "ne": list(ne)})
    return bool(lib.ce_is_repackable(c_one))


def c_tensor(tensor: EngineTensor, buffer: Any) -> dict[str, Any]:
    return {
        "role": tensor.role,
        "layer": tensor.layer,
        "expert": lib.CE_ALL_EXPERTS if tensor.expert is None else tensor.expert,
        "type": tensor.type,
        "n_dims": len(tensor.ne),
        "ne": list(tensor.ne),
        "data": buffer,
        "n_bytes": len(buffer),
    }
