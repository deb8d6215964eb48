"""A C object that threads may be using while another closes it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pymixtral.errors import ClosedError, EngineError

this_thread = threading.local()  # .in_tap: whether it runs a tap's function


class Handle:
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
        if getattr(this_thread, "in_tap", False):
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
