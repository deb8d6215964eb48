"""Ctrl-C and closing where they are least expected."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from unittest.mock import Mock

import pytest
from reference.tiny import TINY_MODELS
from reference.tiny_engine import tiny_engine

from pymixtral.engine import Engine, Phase
from pymixtral.engine.engine import _outlast
from pymixtral.errors import ClosedError, EngineError


@pytest.fixture
def engine() -> Engine:
    return tiny_engine(TINY_MODELS["four-share"])


def test_a_second_ctrl_c_does_not_leave_a_running_call() -> None:
    future = Mock(spec=Future)
    future.done.side_effect = [False, False, True]
    future.exception.side_effect = [KeyboardInterrupt, None]
    _outlast(future)
    assert future.exception.call_count == 2


def test_close_does_not_wait_for_a_use_that_ctrl_c_left_behind(engine: Engine) -> None:
    use = engine._use()
    use.__enter__()  # and never left, as when Ctrl-C strikes before __exit__ has begun
    engine.close()
    with pytest.raises(ClosedError):
        engine.session(8)


def test_close_waits_for_other_threads(engine: Engine) -> None:
    entered, leave = threading.Event(), threading.Event()

    def use() -> None:
        with engine._use():
            entered.set()
            leave.wait()

    user = threading.Thread(target=use)
    closer = threading.Thread(target=engine.close)
    user.start()
    entered.wait()
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    leave.set()
    closer.join(10)
    assert not closer.is_alive()
    user.join()


def test_closing_from_inside_a_tap_is_refused(engine: Engine) -> None:
    refusals = []

    def show(_: object) -> None:
        with pytest.raises(EngineError, match="cannot be closed from inside a tap") as caught:
            engine.close()
        refusals.append(caught)

    session = engine.session(8)
    with engine.tap(show):
        session.eval([1, 2], Phase.PROMPT)
    assert refusals
    engine.close()  # afterwards it can
