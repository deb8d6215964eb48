"""The C engine as Python objects: the only importer of `pymixtral._cengine`.

Lengths and shapes are checked here, the C function is called (cffi releases the GIL), and its code
becomes an exception in one place, `_check`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pymixtral._cengine import ffi, lib
from pymixtral.errors import (
    ClosedError,
    ContextError,
    EngineError,
    EvalCancelled,
    ForkedError,
    InsufficientMemoryError,
    ModelLoadError,
    ParameterError,
    PymixtralError,
)

T = TypeVar("T")
Logits = NDArray[np.float32]


class Phase(IntEnum):
    """Whether tokens are a prompt's or were generated; it picks the kernel family."""

    PROMPT = lib.CE_PHASE_PROMPT
    GENERATED = lib.CE_PHASE_GENERATED


KV_TYPES = {"f16": lib.CE_TYPE_F16, "f32": lib.CE_TYPE_F32}
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


def _exception(code: int, error: Any) -> PymixtralError:
    return _EXCEPTIONS[code](ffi.string(error.message).decode())


def _check(code: int, error: Any) -> None:
    if code != lib.CE_OK:
        raise _exception(code, error)


# ---- The machine ----


def tiers() -> dict[str, bool]:
    """Instruction-set tiers that were compiled in, worst first, and whether this CPU has them."""
    found: dict[str, bool] = {}
    while (name := lib.ce_tier_name(len(found))) != ffi.NULL:
        found[ffi.string(name).decode()] = bool(lib.ce_tier_supported(len(found)))
    return found


def default_threads() -> int:
    """Threads that CPU affinity and the cgroup's quota allow."""
    return int(lib.ce_default_threads())


def explain_bus_errors(line: str) -> None:
    """For programs, not for libraries: end with `line` and exit code 1 where a mapped file turns
    out to have been truncated, instead of dying of SIGBUS without a word."""
    lib.ce_explain_bus_errors(line.encode()[:500] + b"\n")


# ---- Rows of weights ----


def dequantize_rows(data: memoryview, source: int, n_rows: int, n_cols: int) -> NDArray[np.float32]:
    """Rows of GGML type `source` as float32 (n_rows, n_cols).

    Raises:
        ValueError: there is no decoder for the type.
    """
    if source == lib.CE_TYPE_F32:
        return np.frombuffer(data, np.float32).reshape(n_rows, n_cols)
    values = np.empty((n_rows, n_cols), np.float32)
    error = ffi.new("ce_error *")
    src, dst = ffi.from_buffer(data), ffi.from_buffer("float[]", values)
    _check_rows(lib.ce_dequantize(source, src, dst, values.size, error), error)
    return values


def quantize_rows(
    values: NDArray[np.float32],
    target: int,
    importance: NDArray[np.float32] | None,
    out: NDArray[np.uint8],
    first: int = 0,
) -> tuple[float, float]:
    """Fill `out` with the rows `values` (n_rows, n_cols) as GGML type `target`.

    Args:
        importance: (n_cols,), how much an error in a column matters.
        first: the number of the first row, for messages.

    Returns: the sums of (value - quantized value)^2 and value^2.

    Raises:
        ValueError: a value, or an importance, cannot be used; there is no quantizer for the type.
    """
    sums, error = ffi.new("ce_quantize_error *"), ffi.new("ce_error *")
    src, dst = ffi.from_buffer("float[]", values), ffi.from_buffer(out)
    weights = ffi.NULL if importance is None else ffi.from_buffer("float[]", importance)
    code = lib.ce_quantize(target, src, *values.shape, weights, dst, sums, error)
    _check_rows(code, error, first)
    return sums.error, sums.square


def _check_rows(code: int, error: Any, first: int = 0) -> None:
    if code != lib.CE_OK:
        where = f" (rows are counted from {first})" if first else ""
        raise ValueError(ffi.string(error.message).decode() + where)


# ---- Describing a model ----


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


def _c_hparams(hparams: HParamsLike) -> Any:
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
    """

    role: int
    layer: int
    type: int
    ne: tuple[int, ...]
    data: memoryview


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
    return int(lib.ce_engine_scratch_bytes(_c_hparams(hparams), options.to_c()))


def kv_bytes(hparams: HParamsLike, n_ctx: int, kv_type: str = "f16") -> int:
    """Bytes of one session's KV cache."""
    return int(lib.ce_session_kv_bytes(_c_hparams(hparams), n_ctx, _kv_type(kv_type)))


def _kv_type(name: str) -> int:
    if name not in KV_TYPES:
        raise ParameterError(f"kv_type must be {' or '.join(KV_TYPES)}, not {name!r}")
    return int(KV_TYPES[name])


# ---- Handles: a C object that threads may be using while another closes it ----


_this_thread = threading.local()  # .in_tap: whether it runs a tap's function


class _Handle:
    """Owns a C pointer. `close` waits until no other thread uses it; later uses raise ClosedError.

    Uses are counted by thread, because Ctrl-C can strike the main thread between any two steps,
    and a count that it left behind must not make that thread's own `close` wait for ever.
    """

    def __init__(self, what: str, pointer: Any, free: Callable[[Any], None]) -> None:
        self._what = what
        self._pointer = pointer
        self._condition = threading.Condition()
        self._n_users: dict[int, int] = {}  # thread -> how often it is using the pointer
        self._closed = False
        self._finalizer = weakref.finalize(self, free, pointer)

    @property
    def closed(self) -> bool:
        return self._closed

    @contextmanager
    def _use(self) -> Iterator[Any]:
        thread = threading.get_ident()
        with self._condition:
            if self._closed:
                raise ClosedError(f"{self._what} has been closed")
            self._n_users[thread] = self._n_users.get(thread, 0) + 1
        try:
            yield self._pointer
        finally:
            with self._condition:
                self._n_users[thread] -= 1
                self._condition.notify_all()

    def _check_may_close(self) -> None:
        if getattr(_this_thread, "in_tap", False):
            raise EngineError(f"{self._what} cannot be closed from inside a tap")

    def _close(self) -> None:
        with self._condition:
            self._closed = True
            while self._is_used_by_others():
                self._condition.wait()
        self._finalizer()

    def _is_used_by_others(self) -> bool:
        me = threading.get_ident()
        return any(n for thread, n in self._n_users.items() if thread != me)


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One session's share of a batch.

    Attributes:
        ids: token ids to append.
        n_logits: logits are wanted after each of the last `n_logits` ids.
    """

    session: Session
    ids: Sequence[int] | NDArray[np.int32]
    n_logits: int = 1


@dataclass(frozen=True, slots=True)
class TapEvent:
    """Rows that went into one matrix; the arrays are copies.

    Attributes:
        role, layer, expert: which matrix (`ce_role`); gate stands for gate and up, q for q, k, v.
        x: (n_rows, n_cols) float32, the matrix's inputs.
        item, position: (n_rows,), each row's index in the batch, and its position in the session.
        chosen, chosen_weight: (n_rows, n_used), the router's experts, best first, and their
            weights; None but for the router (role FFN_GATE_INP).
    """

    role: int
    layer: int
    expert: int
    x: Logits
    item: NDArray[np.int32]
    position: NDArray[np.int32]
    chosen: NDArray[np.int32] | None
    chosen_weight: Logits | None


class Engine(_Handle):
    """A model bound to kernels and threads; see `cengine/include/cengine.h`.

    Args:
        hparams: the model's hyperparameters.
        tensors: its tensors. Their data must stay as they are while the engine lives.
        options: threads, batch size, tier.

    Raises:
        ModelLoadError: tensors and hyperparameters contradict one another.
        ParameterError: unknown or unsupported tier, or a number out of range.
        InsufficientMemoryError: the working memory could not be allocated.
    """

    def __init__(
        self,
        hparams: HParamsLike,
        tensors: Sequence[EngineTensor],
        options: EngineOptions | None = None,
    ) -> None:
        options = options or EngineOptions()
        buffers = [ffi.from_buffer(tensor.data) for tensor in tensors]
        c_tensors = ffi.new(
            "ce_tensor[]", [_c_tensor(t, b) for t, b in zip(tensors, buffers, strict=True)]
        )
        out, error = ffi.new("ce_engine **"), ffi.new("ce_error *")
        code = lib.ce_engine_create(
            _c_hparams(hparams), c_tensors, len(tensors), options.to_c(), out, error
        )
        _check(code, error)
        super().__init__("the model", out[0], lib.ce_engine_free)
        self._buffers = buffers
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._pid = os.getpid()
        self.n_vocab = hparams.n_vocab
        self._weight_bytes = sum(len(buffer) for buffer in buffers)
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="pymixtral-eval")

    @property
    def tier(self) -> str:
        """Instruction-set tier in use."""
        with self._use() as engine:
            return str(ffi.string(lib.ce_engine_tier(engine)).decode())

    @property
    def threads(self) -> int:
        """Threads in use, the evaluating one included."""
        with self._use() as engine:
            return int(lib.ce_engine_threads(engine))

    def kernel(self, type: int, phase: Phase) -> tuple[str, int] | None:
        """Name of a weight type's matmul kernel and how often it has run; None without kernel."""
        with self._use() as engine:
            name = lib.ce_engine_kernel_name(engine, type, phase)
            if name == ffi.NULL:
                return None
            return ffi.string(name).decode(), int(lib.ce_engine_kernel_calls(engine, type, phase))

    def session(self, n_ctx: int, kv_type: str = "f16") -> Session:
        """A new timeline with room for `n_ctx` positions."""
        with self._use() as engine:
            out, error = ffi.new("ce_session **"), ffi.new("ce_error *")
            _check(lib.ce_session_create(engine, n_ctx, _kv_type(kv_type), out, error), error)
            return Session(self, out[0])

    def eval(self, items: Sequence[EvalItem], phase: Phase) -> list[Logits]:
        """Append each item's ids to its session, in one batch.

        In the main thread Ctrl-C cancels the evaluation, which leaves the sessions as they were.

        Returns:
            For each item its logits, (n_logits, n_vocab) float32.

        Raises:
            ContextError, EvalCancelled, EngineError, ParameterError, ForkedError, ClosedError: the
                first item's that failed. The sessions of items that did not fail have advanced;
                `eval_each` tells them apart.
        """
        results = self.eval_each(items, phase)
        for result in results:
            if isinstance(result, PymixtralError):
                raise result
        return [result for result in results if not isinstance(result, PymixtralError)]

    def eval_each(self, items: Sequence[EvalItem], phase: Phase) -> list[Logits | PymixtralError]:
        """Like `eval`, but an item that fails has its exception in its place."""
        if os.getpid() != self._pid:
            raise ForkedError(
                "the model was loaded before this process was forked; load it in the child"
            )
        if not items:
            return []
        ids = [_c_ids(item) for item in items]
        n_rows = sum(map(len, ids))
        logits = [np.empty((item.n_logits, self.n_vocab), dtype=np.float32) for item in items]
        sessions = [item.session for item in items]

        with self._use() as engine, _use_all(sessions) as pointers:
            c_items = ffi.new(
                "ce_item[]",
                [
                    {
                        "session": pointer,
                        "ids": ffi.from_buffer("int32_t[]", i),
                        "n_ids": len(i),
                        "n_logits": len(rows),
                        "logits": ffi.from_buffer("float[]", rows),
                    }
                    for pointer, i, rows in zip(pointers, ids, logits, strict=True)
                ],
            )
            error = ffi.new("ce_error *")

            def call() -> int:
                return int(lib.ce_eval(engine, phase, c_items, len(items), error))

            code = self._interruptible(call, n_rows, sessions)
        if all(item.status == lib.CE_OK for item in c_items):
            _check(code, error)  # a failure of the batch as a whole
        return [
            rows if item.status == lib.CE_OK else _item_exception(item.status, code, error)
            for item, rows in zip(c_items, logits, strict=True)
        ]

    def _interruptible(
        self, call: Callable[[], int], n_rows: int, sessions: Sequence[Session]
    ) -> int:
        """Runs `call` so that Ctrl-C is answered while C is computing.

        Python handles signals in the main thread only, and not while that is inside C. So long
        evaluations go to a helper thread and the main thread waits. Short ones do not: handing
        over costs some 50 microseconds, which a tiny model's token would feel.
        """
        is_short = n_rows * self._weight_bytes < 100_000_000
        if is_short or threading.current_thread() is not threading.main_thread():
            return call()
        future = self._helper.submit(call)
        try:
            return future.result()
        except BaseException:
            for session in sessions:
                session.cancel()
            _outlast(future)
            for session in sessions:
                session.resume()
            raise

    @contextmanager
    def tap(self, show: Callable[[TapEvent], None]) -> Iterator[None]:
        """Within the context, `show` is called with the inputs of every matrix that is used.

        It is called from inside evaluations, and what it raises is raised by them no more than
        printed; keep it simple. Evaluations of other threads are shown as well.
        """
        user = ffi.new_handle(show)
        with self._use() as engine:
            lib.ce_engine_set_tap(engine, lib.ce_tap_to_python, user)
        try:
            yield
        finally:
            with self._use() as engine:
                lib.ce_engine_set_tap(engine, ffi.NULL, ffi.NULL)

    def close(self) -> None:
        """Cancels what runs, and frees the sessions and the engine. Closing twice is allowed."""
        self._check_may_close()
        for session in list(self._sessions):
            session.close()
        self._helper.shutdown(wait=False)
        self._close()
        while self._buffers:
            ffi.release(self._buffers.pop())  # so that the file behind them can be closed


def _outlast(future: Future[int]) -> None:
    """Waits for a cancelled call, a work chunk at most. Until it ends C uses the caller's buffers,
    so that a second Ctrl-C must not unwind them."""
    while not future.done():
        with suppress(KeyboardInterrupt):
            future.exception()


def _c_ids(item: EvalItem) -> NDArray[np.int32]:
    if not 0 <= item.n_logits <= len(item.ids):
        raise ParameterError(f"{len(item.ids)} ids cannot give {item.n_logits} rows of logits")
    try:
        return np.ascontiguousarray(item.ids, dtype=np.int32)
    except OverflowError:
        raise ParameterError("ids: a token id is outside the vocabulary") from None


def _item_exception(status: int, code: int, error: Any) -> PymixtralError:
    """The batch's message belongs to the first status that failed, which `code` is."""
    if status == code:
        return _exception(code, error)
    return _EXCEPTIONS[status](f"this item of the batch failed (code {status})")


def _c_tensor(tensor: EngineTensor, buffer: Any) -> dict[str, Any]:
    return {
        "role": tensor.role,
        "layer": tensor.layer,
        "type": tensor.type,
        "n_dims": len(tensor.ne),
        "ne": list(tensor.ne),
        "data": buffer,
        "n_bytes": len(buffer),
    }


@ffi.def_extern()  # type: ignore[untyped-decorator]
def ce_tap_to_python(user: Any, event: Any) -> None:
    def copied(pointer: Any, dtype: type, *shape: int) -> NDArray[Any]:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(ffi.buffer(pointer, n_bytes), dtype).reshape(shape).copy()

    n_rows, n_used = event.n_rows, event.n_used
    shown = TapEvent(
        role=event.role,
        layer=event.layer,
        expert=event.expert,
        x=copied(event.x, np.float32, n_rows, event.n_cols),
        item=copied(event.item, np.int32, n_rows),
        position=copied(event.position, np.int32, n_rows),
        chosen=copied(event.chosen, np.int32, n_rows, n_used) if n_used else None,
        chosen_weight=copied(event.chosen_weight, np.float32, n_rows, n_used) if n_used else None,
    )
    _this_thread.in_tap = True
    try:
        ffi.from_handle(user)(shown)
    finally:
        _this_thread.in_tap = False


class Session(_Handle):
    """One timeline on an engine; made by `Engine.session`. Use it from one thread at a time."""

    def __init__(self, engine: Engine, pointer: Any) -> None:
        super().__init__("the session", pointer, lib.ce_session_free)
        self.engine = engine  # also keeps it alive
        engine._sessions.add(self)

    def __len__(self) -> int:
        """Positions that are filled."""
        with self._use() as session:
            return int(lib.ce_session_length(session))

    @property
    def n_ctx(self) -> int:
        """Positions that there is room for."""
        with self._use() as session:
            return int(lib.ce_session_n_ctx(session))

    def eval(
        self, ids: Sequence[int] | NDArray[np.int32], phase: Phase, n_logits: int = 1
    ) -> Logits:
        """Append ids; returns the logits after each of the last `n_logits`, see `Engine.eval`."""
        return self.engine.eval([EvalItem(self, ids, n_logits)], phase)[0]

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        with self._use() as session:
            error = ffi.new("ce_error *")
            _check(lib.ce_session_truncate(session, length, error), error)

    def copy(self) -> Session:
        """A second session that goes on from the same state."""
        with self._use() as session:
            out, error = ffi.new("ce_session **"), ffi.new("ce_error *")
            _check(lib.ce_session_copy(session, out, error), error)
            return Session(self.engine, out[0])

    def cancel(self) -> None:
        """From any thread: end the evaluation under way, and refuse others until `resume`."""
        with self._use() as session:
            lib.ce_session_cancel(session)

    def resume(self) -> None:
        """Allow evaluations again after `cancel`."""
        with self._use() as session:
            lib.ce_session_resume(session)

    def close(self) -> None:
        """Cancels what runs, and frees the KV cache. Closing twice is allowed."""
        self._check_may_close()
        if not self.closed:
            self.cancel()
        self._close()


@contextmanager
def _use_all(sessions: Sequence[Session]) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        yield [stack.enter_context(session._use()) for session in sessions]
