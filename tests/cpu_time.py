"""Time bounds that hold on slow and busy machines too: in units of a yardstick measured there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

YARDSTICK_SECONDS = 0.005  # of `_yardstick` on a current core with nothing else to do


@contextmanager
def bounded_cpu_time(seconds: float) -> Iterator[None]:
    """The body may take `seconds` of CPU time.

    Where it takes more, the machine is asked how slow it is just now, and the body has three times
    what that allows: an attack that works takes hundreds of times as long.
    """
    started = time.process_time()
    yield
    taken = time.process_time() - started
    assert taken < seconds or taken < 3 * seconds * slowness()


def slowness() -> float:
    """How many times longer than on an idle current core a piece of work takes; at least 1."""
    return max(1.0, *(_yardstick() / YARDSTICK_SECONDS for _ in range(5)))


def _yardstick() -> float:
    started = time.perf_counter()
    sum(i * i for i in range(100_000))
    return time.perf_counter() - started
