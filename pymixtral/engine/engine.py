"""Engines and sessions: the C engine as Python objects.

Lengths and shapes are checked here, and the C function is called (cffi releases the GIL).
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pymixtral._cengine import ffi, lib
from pymixtral.engine.codes import check, item_exception
from pymixtral.engine.description import (
    EngineOptions,
    EngineTensor,
    HParamsLike,
    c_hparams,
    c_kv_type,
    c_tensor,
)
from pymixtral.engine.handle import Handle
from pymixtral.engine.read_ahead import ReadAhead
from pymixtral.engine.tap import TapEvent
from pymixtral.errors import ForkedError, ParameterError, PymixtralError

Logits = NDArray[np.float32]


class Phase(IntEnum):
    """Whether tokens are a prompt's or were generated; it picks the kernel family."""

    PROMPT = lib.CE_PHASE_PROMPT
    GENERATED = lib.CE_PHASE_GENERATED


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


class Engine(Handle):
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
            "ce_tensor[]", [c_tensor(t, b) for t, b in zip(tensors, buffers, strict=True)]
        )
        out, error = ffi.new("ce_engine **"), ffi.new("ce_error *")
        code = lib.ce_engine_create(
            c_hparams(hparams), c_tensors, len(tensors), options.to_c(), out, error
        )
        check(code, error)
        super().__init__("the model", out[0], lib.ce_engine_free)
        self._buffers = {_address(buffer): buffer for buffer in buffers}
        self._read_ahead: ReadAhead | None = None
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._pid = os.getpid()
        self.n_vocab = hparams.n_vocab
        self._weight_bytes = sum(len(buffer) for buffer in buffers)
        self._is_tapped = False
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

    def repack(self, tensor: EngineTensor) -> int:
        """Copy a tensor into the layout that the kernels read fastest; results stay the same.

        Its own data are not read any more.

        Returns:
            Bytes copied; 0 if the tensor has no such layout and stays as it is.

        Raises:
            InsufficientMemoryError: there is no room for the copy.
        """
        with self._use() as engine, ffi.from_buffer(tensor.data) as data:
            copied, error = ffi.new("uint64_t *"), ffi.new("ce_error *")
            c_one = ffi.new("ce_tensor *", c_tensor(tensor, data))
            check(lib.ce_engine_repack(engine, c_one, copied, error), error)
            return int(copied[0])

    def use_repacked(self, tensor: EngineTensor, repacked: memoryview) -> int:
        """Read a tensor from `repacked`, which holds it as `repack_rows` makes it.

        Its own data are not read any more.

        Args:
            repacked: at a multiple of 64, with the tensor's size; kept alive by the engine in place
                of the tensor's own data.

        Returns:
            Bytes that will be read there; 0 if the tensor has no such layout, or the tier no
            kernels for it, so that it stays as it is.

        Raises:
            ParameterError: the size or the address is wrong.
        """
        buffer = ffi.from_buffer(repacked)
        with self._use() as engine, ffi.from_buffer(tensor.data) as data:
            used, error = ffi.new("uint64_t *"), ffi.new("ce_error *")
            c_one = ffi.new("ce_tensor *", c_tensor(tensor, data))
            code = lib.ce_engine_use_repacked(engine, c_one, buffer, len(buffer), used, error)
            check(code, error)
            if used[0]:
                self._buffers[_address(data)] = buffer
            return int(used[0])

    def read_ahead(self) -> None:
        """Begin to read mapped weights from the disk, in the background and in their order."""
        with self._use():
            self._read_ahead = self._read_ahead or ReadAhead(self._buffers.values())

    def kernel(self, type: int, phase: Phase) -> tuple[str, int] | None:
        """Name of a weight type's matmul kernel and how often it has run; None without kernel."""
        with self._use() as engine:
            name = lib.ce_engine_kernel_name(engine, type, phase)
            if name == ffi.NULL:
                return None
            return ffi.string(name).decode(), int(lib.ce_engine_kernel_calls(engine, type, phase))

    @property
    def batch_rows(self) -> int:
        """Tokens that go through the layers together."""
        with self._use() as engine:
            return int(lib.ce_engine_batch_rows(engine))

    def op_seconds(self, phase: Phase) -> dict[str, float]:
        """The time that each part of the passes has taken since the engine was created."""
        with self._use() as engine:
            return {
                ffi.string(lib.ce_op_name(op)).decode(): lib.ce_engine_op_seconds(engine, op, phase)
                for op in range(lib.CE_N_OPS)
            }

    def read(self, buffer: NDArray[Any]) -> None:
        """Load a buffer with all threads, and do nothing with it; for measurements."""
        with self._use() as engine, ffi.from_buffer(buffer) as data:
            error = ffi.new("ce_error *")
            check(lib.ce_engine_read(engine, data, len(data), error), error)

    def multiply(self, n_products: int) -> int:
        """Multiply what is in registers with all threads; for measurements.

        Returns:
            How many multiply-adds were done: `n_products` or somewhat more.
        """
        with self._use() as engine:
            done, error = ffi.new("int64_t *"), ffi.new("ce_error *")
            check(lib.ce_engine_multiply(engine, n_products, done, error), error)
            return int(done[0])

    @property
    def multiply_instruction(self) -> str:
        """What `multiply` uses: that which a prompt's matmuls rest on."""
        with self._use() as engine:
            return str(ffi.string(lib.ce_engine_multiply_instruction(engine)).decode())

    def session(self, n_ctx: int, kv_type: str = "f16") -> Session:
        """A new timeline with room for `n_ctx` positions."""
        with self._use() as engine:
            out, error = ffi.new("ce_session **"), ffi.new("ce_error *")
            check(lib.ce_session_create(engine, n_ctx, c_kv_type(kv_type), out, error), error)
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
            check(code, error)  # a failure of the batch as a whole
        return [
            rows if item.status == lib.CE_OK else item_exception(item.status, code, error)
            for item, rows in zip(c_items, logits, strict=True)
        ]

    def _interruptible(
        self, call: Callable[[], int], n_rows: int, sessions: Sequence[Session]
    ) -> int:
        """Runs `call` so that Ctrl-C is answered while C is computing.

        Python handles signals in the main thread only, and not while that is inside C. So long
        evaluations go to a helper thread and the main thread waits. Short ones do not: handing
        over costs some 50 microseconds, which a tiny model's token would feel. While there is a
        tap, Ctrl-C could strike in its Python code, and be lost in C: none is short then.
        """
        is_short = n_rows * self._weight_bytes < 100_000_000 and not self._is_tapped
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
        printed; keep it simple. It may not use the engine. Evaluations of other threads are shown
        as well; the context is entered, and left, between two of them.
        """
        user = ffi.new_handle(show)
        self._set_tap(lib.ce_tap_to_python, user)
        self._is_tapped = True
        try:
            yield
        finally:
            self._is_tapped = False
            self._set_tap(ffi.NULL, ffi.NULL)

    def _set_tap(self, function: Any, user: Any) -> None:
        with self._use() as engine:
            error = ffi.new("ce_error *")
            check(lib.ce_engine_set_tap(engine, function, user, error), error)

    def close(self) -> None:
        """Cancels what runs, and frees the sessions and the engine. Closing twice is allowed."""
        self._check_may_close()
        for session in list(self._sessions):
            session.close()
        self._helper.shutdown(wait=False)
        self._close()
        if self._read_ahead is not None:
            self._read_ahead.stop()
        while self._buffers:
            ffi.release(self._buffers.popitem()[1])  # so that the file behind them can be closed


def _address(buffer: Any) -> int:
    return int(ffi.cast("uintptr_t", buffer))


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


class Session(Handle):
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
            check(lib.ce_session_truncate(session, length, error), error)

    def copy(self) -> Session:
        """A second session that goes on from the same state."""
        with self._use() as session:
            out, error = ffi.new("ce_session **"), ffi.new("ce_error *")
            check(lib.ce_session_copy(session, out, error), error)
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
