"""Sessions, batches, errors, cancelling, taps and closing, on tiny random models."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
from reference.tiny import TINY_MODELS, TinyModel, random_ids, random_weights
from reference.tiny_engine import BLOCK_MODEL, tiny_engine, tiny_tensors

from pymixtral.engine import (
    Engine,
    EngineOptions,
    EngineTensor,
    EvalItem,
    Phase,
    Session,
    TapEvent,
    default_threads,
    kv_bytes,
    scratch_bytes,
    tiers,
)
from pymixtral.errors import (
    ClosedError,
    ContextError,
    EngineError,
    EvalCancelled,
    ForkedError,
    ModelLoadError,
    ParameterError,
    PymixtralError,
)
from pymixtral.formats.names import TensorRole, parse_name

MODEL = TINY_MODELS["four-share"]
IDS = random_ids(MODEL, 20)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = tiny_engine(MODEL)
    yield engine
    engine.close()


# ---- Sessions ----


def test_session_counts_positions(engine: Engine) -> None:
    session = engine.session(32)
    assert (len(session), session.n_ctx) == (0, 32)
    assert session.eval(IDS, Phase.PROMPT).shape == (1, MODEL.n_vocab)
    assert len(session) == len(IDS)
    session.truncate(4)
    assert len(session) == 4
    assert session.eval(IDS, Phase.PROMPT, n_logits=0).shape == (0, MODEL.n_vocab)


def test_full_context_is_an_error_and_changes_nothing(engine: Engine) -> None:
    session = engine.session(len(IDS) + 2)
    session.eval(IDS, Phase.PROMPT)
    with pytest.raises(ContextError, match="20 positions are taken and 3 more asked for"):
        session.eval(IDS[:3], Phase.PROMPT)
    assert len(session) == len(IDS)
    session.eval(IDS[:2], Phase.PROMPT)


@pytest.mark.parametrize("bad_id", [-1, MODEL.n_vocab, 2**31 - 1, 2**40])
def test_ids_outside_the_vocabulary(engine: Engine, bad_id: int) -> None:
    session = engine.session(8)
    with pytest.raises(ParameterError, match="outside the vocabulary"):
        session.eval([1, bad_id], Phase.PROMPT)
    assert len(session) == 0


def test_bad_arguments(engine: Engine) -> None:
    session = engine.session(8)
    with pytest.raises(ParameterError):
        session.eval([1, 2], Phase.PROMPT, n_logits=3)
    with pytest.raises(ParameterError):
        session.eval([], Phase.PROMPT, n_logits=0)
    with pytest.raises(ParameterError):
        session.truncate(1)
    with pytest.raises(ParameterError):
        engine.session(0)
    with pytest.raises(ParameterError, match="kv_type"):
        engine.session(8, "q8")
    with pytest.raises(ParameterError, match="threads"):
        EngineOptions(threads=0)
    with pytest.raises(ParameterError, match="1024"):
        tiny_engine(MODEL, options=EngineOptions(threads=5000))


# ---- Batches ----


def test_failed_item_leaves_the_others_alone(engine: Engine) -> None:
    good, full, bad = engine.session(32), engine.session(4), engine.session(32)
    items = [EvalItem(good, IDS), EvalItem(full, IDS), EvalItem(bad, [MODEL.n_vocab])]
    results = engine.eval_each(items, Phase.PROMPT)
    assert isinstance(results[1], ContextError)
    assert isinstance(results[2], ParameterError)
    expected = engine.session(32).eval(IDS, Phase.PROMPT)
    assert np.array_equal(results[0], expected)
    assert [len(s) for s in (good, full, bad)] == [len(IDS), 0, 0]


def test_one_session_twice_in_a_batch(engine: Engine) -> None:
    session = engine.session(64)
    first, second = engine.eval_each([EvalItem(session, IDS)] * 2, Phase.PROMPT)
    assert isinstance(first, np.ndarray)
    assert isinstance(second, EngineError)
    assert len(session) == len(IDS)


def test_session_of_another_engine(engine: Engine) -> None:
    other = tiny_engine(MODEL)
    with pytest.raises(ParameterError):
        engine.eval([EvalItem(other.session(8), [1])], Phase.PROMPT)
    other.close()


# ---- Numbers that are none ----


def nan_engine(value: float) -> Engine:
    """Token 7's embedding poisons every activation that it reaches."""
    weights = random_weights(MODEL)
    weights["token_embd.weight"][7] = value
    return tiny_engine(MODEL, weights=weights)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_router_fails_its_session_alone(value: float) -> None:
    engine = nan_engine(value)
    healthy = IDS[IDS != 7]
    sick = np.array([1, 5, 7, 9], np.int32)
    sessions = [engine.session(32) for _ in range(3)]
    items = [
        EvalItem(sessions[0], healthy),
        EvalItem(sessions[1], sick),
        EvalItem(sessions[2], [3]),
    ]
    results = engine.eval_each(items, Phase.PROMPT)
    assert isinstance(results[1], EngineError)
    assert "not finite at position 2" in str(results[1])
    assert [len(s) for s in sessions] == [len(healthy), 0, 1]
    assert np.array_equal(results[0], engine.session(32).eval(healthy, Phase.PROMPT))
    sessions[1].eval([1, 5], Phase.PROMPT)  # the session goes on
    engine.close()


# ---- Cancelling, threads, processes ----


def slow_engine() -> Engine:
    model = TinyModel(
        n_heads=8, n_kv_heads=8, head_dim=64, dim=512, ffn_dim=1024, n_experts=8,
        n_experts_used=8, n_vocab=128, n_layers=2,
    )  # fmt: skip
    return tiny_engine(model, options=EngineOptions(tier="generic"))


def test_cancel_from_another_thread() -> None:
    engine = slow_engine()
    session = engine.session(4096)
    ids = np.ones(4000, np.int32)
    timer = threading.Timer(0.3, session.cancel)
    timer.start()
    start = time.monotonic()
    with pytest.raises(EvalCancelled):
        session.eval(ids, Phase.PROMPT)
    assert len(session) == 0
    with pytest.raises(EvalCancelled):  # until it is resumed
        session.eval(ids[:1], Phase.PROMPT)
    session.resume()
    session.eval(ids[:1], Phase.PROMPT)
    # Uncancelled it takes a minute; nothing near that is tolerated on a slow machine either.
    assert time.monotonic() - start < 20
    engine.close()


def start_evaluation(session: Session) -> tuple[threading.Thread, list[BaseException]]:
    """A thread that evaluates a prompt for a minute, and what it will have raised."""
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            session.eval(np.ones(4000, np.int32), Phase.PROMPT)
        except PymixtralError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_close_ends_a_running_evaluation() -> None:
    engine = slow_engine()
    thread, outcome = start_evaluation(engine.session(4096))
    time.sleep(0.2)
    engine.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert isinstance(outcome[0], EvalCancelled)


@contextmanager
def evaluating(session: Session) -> Iterator[threading.Thread]:
    """A thread holds the session, and is cancelled at the end."""
    thread, outcome = start_evaluation(session)
    try:
        with suppress(EngineError):
            while True:  # until the session is held
                session.truncate(0)
        yield thread
    finally:
        session.cancel()
        thread.join(timeout=60)
    assert not thread.is_alive()
    assert isinstance(outcome[0], EvalCancelled)


def test_a_session_is_used_by_one_thread() -> None:
    engine = slow_engine()
    session = engine.session(4096)
    with evaluating(session):
        for use in (
            lambda: session.eval([1], Phase.PROMPT),
            lambda: session.truncate(0),
            session.copy,
        ):
            with pytest.raises(EngineError, match="by another thread"):
                use()
    engine.close()


def test_cancel_of_an_evaluation_that_waits_for_another() -> None:
    engine = slow_engine()
    busy, waiting = engine.session(4096), engine.session(8)
    with evaluating(busy) as thread:
        timer = threading.Timer(0.1, waiting.cancel)
        timer.start()
        with pytest.raises(EvalCancelled):
            waiting.eval([1, 2], Phase.PROMPT)
        assert thread.is_alive()
    waiting.resume()
    waiting.eval([1, 2], Phase.PROMPT)
    engine.close()


def test_threads_share_an_engine(engine: Engine) -> None:
    expected = engine.session(32).eval(IDS, Phase.PROMPT, len(IDS))
    results = []

    def run() -> None:
        for _ in range(10):
            results.append(engine.session(32).eval(IDS, Phase.PROMPT, len(IDS)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40
    assert all(np.array_equal(result, expected) for result in results)


def test_use_after_close(engine: Engine) -> None:
    session = engine.session(8)
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match="session has been closed"):
        len(session)
    with pytest.raises(ClosedError, match="model has been closed"):
        engine.session(8)


def _eval_in_child(engine: Engine, queue: multiprocessing.Queue[str]) -> None:
    try:
        engine.session(8).eval([1], Phase.PROMPT)
    except ForkedError as error:
        queue.put(str(error))
    else:
        queue.put("evaluated")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_is_refused(engine: Engine) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_eval_in_child, args=(engine, queue))
    child.start()
    assert "forked" in queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    engine.session(8).eval([1], Phase.PROMPT)  # the parent is unharmed


# ---- Binding ----


def with_tensor(change: EngineTensor, index: int) -> Engine:
    """An engine of a dense model with one tensor replaced."""
    model = TINY_MODELS["dense"]
    tensors = []
    for name, weight in random_weights(model).items():
        place = parse_name(name)
        assert place is not None, name
        role, layer = place
        data = memoryview(weight).cast("B")
        tensors.append(EngineTensor(role, layer or 0, 0, weight.shape[::-1], data))
    tensors[index] = change
    return Engine(model, tensors)


FLOATS = memoryview(bytes(4 * 96))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (EngineTensor(TensorRole.ATTN_NORM, 0, 0, (95,), FLOATS[:380]), "another shape"),
        (EngineTensor(TensorRole.ATTN_NORM, 0, 0, (96,), FLOATS[:380]), "takes 384 bytes, got 380"),
        (EngineTensor(TensorRole.ATTN_NORM, 0, 1, (96,), FLOATS[:192]), "norms must be F32"),
        (EngineTensor(TensorRole.ATTN_NORM, 1, 0, (96,), FLOATS), "given twice"),
        (EngineTensor(TensorRole.ATTN_NORM, 2, 0, (96,), FLOATS), "layer 2 does not exist"),
        (EngineTensor(TensorRole.OUTPUT_NORM, 0, 0, (96,), FLOATS), "given twice|missing"),
        (EngineTensor(13, 0, 0, (96,), FLOATS), "role 13"),
        (EngineTensor(-1, 0, 0, (96,), FLOATS), "role -1"),
        (EngineTensor(TensorRole.FFN_GATE_INP, 0, 0, (96,), FLOATS), "no place in a dense model"),
        (EngineTensor(TensorRole.ATTN_NORM, 0, 9, (96,), FLOATS), "got 384"),
        (EngineTensor(TensorRole.ATTN_NORM, 0, -5, (96,), FLOATS), "got 384"),
    ],
)
def test_contradicting_tensors(tensor: EngineTensor, message: str) -> None:
    with pytest.raises((ModelLoadError, ParameterError), match=message):
        with_tensor(tensor, 1)


def expert(role: TensorRole, layer: int, number: int, ne: tuple[int, ...]) -> EngineTensor:
    return EngineTensor(role, layer, 0, ne, memoryview(bytes(4 * math.prod(ne))), number)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "ffn_up of layer 0 is missing"),
        ([expert(TensorRole.FFN_UP, 0, 2, (64, 112))], "ffn_up of layer 0 is missing"),
        ([expert(TensorRole.FFN_UP, 0, 0, (64, 112))], "is missing for some experts"),
        ([expert(TensorRole.FFN_UP, 0, 2, (64, 112))] * 2, "ffn_up of layer 0 is given twice"),
        ([expert(TensorRole.FFN_DOWN, 1, 0, (112, 64))], "ffn_down of layer 1 is given twice"),
        ([expert(TensorRole.FFN_UP, 0, 0, (112, 64))], "expected 64 x 112 x 1 elements"),
        ([expert(TensorRole.FFN_UP, 0, 0, (64, 112, 8))], "expected 64 x 112 x 1 elements"),
        ([expert(TensorRole.FFN_UP, 0, 8, (64, 112))], "expert 8 does not exist"),
        ([expert(TensorRole.FFN_UP, 0, -2, (64, 112))], "expert -2 does not exist"),
        ([expert(TensorRole.FFN_UP, 0, 2**31 - 1, (64, 112))], "expert 2147483647 does not exist"),
        ([expert(TensorRole.ATTN_Q, 0, 0, (64, 64))], "attn_q of layer 0: expert 0 does not"),
        ([expert(TensorRole.ATTN_NORM, 0, 0, (64,))], "attn_norm of layer 0: expert 0 does not"),
        ([expert(TensorRole.FFN_GATE_INP, 0, 0, (64, 8))], "expert 0 does not exist"),
    ],
)
def test_contradicting_experts(tensors: list[EngineTensor], message: str) -> None:
    """A mixture of experts without layer 0's ffn_up, and with these tensors."""
    model = TINY_MODELS["two-share"]
    for name, weight in random_weights(model).items():
        role, layer = parse_name(name) or (None, None)
        assert role is not None
        if (role, layer) != (TensorRole.FFN_UP, 0):
            data = memoryview(weight).cast("B")
            tensors = [*tensors, EngineTensor(role, layer or 0, 0, weight.shape[::-1], data)]
    with pytest.raises(ModelLoadError, match=message):
        Engine(model, tensors)


@pytest.mark.parametrize(
    "change",
    [
        {"n_layers": 0},
        {"n_layers": 10**6},
        {"dim": -1},
        {"n_heads": 0},
        {"n_kv_heads": 5},
        {"n_experts": 65},
        {"n_experts_used": 9},
        {"n_experts_used": 0},
        {"norm_eps": float("nan")},
        {"norm_eps": 0.0},
        {"rope_theta": float("inf")},
        {"head_dim": 15},
        {"n_vocab": 0},
    ],
)
def test_hostile_hyperparameters(change: dict[str, float]) -> None:
    with pytest.raises(ModelLoadError):
        Engine(replace(MODEL, **change), [])  # type: ignore[arg-type]
    assert scratch_bytes(replace(MODEL, **change), EngineOptions()) == 0  # type: ignore[arg-type]


# ---- Tiers ----


def test_unknown_tier_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="generic"):
        tiny_engine(MODEL, options=EngineOptions(tier="sse9"))
    monkeypatch.setenv("PYMIXTRAL_TIER", "sse9")
    with pytest.raises(ParameterError, match="sse9"):
        tiny_engine(MODEL)
    monkeypatch.setenv("PYMIXTRAL_TIER", "generic")
    engine = tiny_engine(MODEL)
    assert engine.tier == "generic"
    engine.close()


def test_best_tier_is_the_default(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYMIXTRAL_TIER", raising=False)
    best = [name for name, supported in tiers().items() if supported][-1]
    fresh = tiny_engine(MODEL)
    assert fresh.tier == best
    assert fresh.threads == default_threads()
    fresh.close()


# ---- Taps ----


def test_tap_shows_inputs_and_choices(engine: Engine) -> None:
    events: list[TapEvent] = []
    session = engine.session(32)
    with engine.tap(events.append):
        tapped = session.eval(IDS, Phase.PROMPT)
    assert np.array_equal(tapped, engine.session(32).eval(IDS, Phase.PROMPT))
    n_before = len(events)
    session.truncate(0)
    session.eval(IDS, Phase.PROMPT)
    assert len(events) == n_before  # the tap is gone

    for layer in range(MODEL.n_layers):
        of_layer = [e for e in events if e.layer == layer]
        routed = [e for e in of_layer if e.role == TensorRole.FFN_GATE_INP]
        chosen = {int(e.position[0]): e.chosen[0] for e in routed if e.chosen is not None}
        assert sorted(chosen) == list(range(len(IDS)))
        for event in routed:
            assert event.chosen_weight is not None
            assert event.chosen_weight.sum() == pytest.approx(1, abs=1e-6)
            assert (np.diff(event.chosen_weight) <= 0).all()
        for role, width in ((TensorRole.FFN_GATE, MODEL.dim), (TensorRole.FFN_DOWN, MODEL.ffn_dim)):
            rows = [e for e in of_layer if e.role == role]
            assert sum(len(e.x) for e in rows) == len(IDS) * MODEL.n_experts_used
            for event in rows:
                assert event.x.shape[1] == width
                assert all(event.expert in chosen[int(p)] for p in event.position)
    assert any(e.role == TensorRole.OUTPUT for e in events)


def test_the_engine_cannot_be_used_from_inside_a_tap(engine: Engine) -> None:
    session, other = engine.session(8), engine.session(8)
    refusals = []

    def show(_: object) -> None:
        with pytest.raises(EngineError, match="from inside a tap") as caught:
            other.eval([1], Phase.PROMPT)
        refusals.append(caught)

    with engine.tap(show):
        session.eval([1, 2], Phase.PROMPT)
    assert refusals


def test_a_tap_is_left_between_two_evaluations(engine: Engine) -> None:
    session = engine.session(8)
    shown, go_on, left = threading.Event(), threading.Event(), threading.Event()

    def show(_: object) -> None:
        shown.set()
        go_on.wait()

    def leave() -> None:
        with engine.tap(show):
            evaluation.start()
            shown.wait()
        left.set()

    evaluation = threading.Thread(target=session.eval, args=([1, 2], Phase.PROMPT))
    leaving = threading.Thread(target=leave)
    leaving.start()
    shown.wait()
    assert not left.wait(0.2)
    go_on.set()
    assert left.wait(60)
    evaluation.join()
    leaving.join()


@pytest.mark.parametrize("tier", [name for name, supported in tiers().items() if supported])
def test_an_input_that_is_wanted_in_three_forms(tier: str) -> None:
    """AMX packs the inputs of these three types differently, and all at once."""
    model = TinyModel(
        n_heads=8, n_kv_heads=8, head_dim=32, dim=256, ffn_dim=256, n_experts=0, n_experts_used=0,
        n_vocab=64, n_layers=1,
    )  # fmt: skip
    types = {"ATTN_Q": "Q4_0", "ATTN_K": "Q4_K", "ATTN_V": "Q5_1"}
    tensors = {
        name: {tensor.role: tensor for tensor in tiny_tensors(model, name)}
        for name in {"F32", *types.values()}
    }
    mixed = [
        tensors[types.get(tensor.role.name, "F32")][tensor.role]
        for tensor in tensors["F32"].values()
    ]
    ids = random_ids(model, 256)
    whole, pieces = (
        Engine(model, mixed, EngineOptions(threads=1, batch_rows=rows, tier=tier))
        for rows in (256, 16)
    )
    expected = pieces.session(256).eval(ids, Phase.PROMPT, 256)
    assert whole.session(256).eval(ids, Phase.PROMPT, 256).tobytes() == expected.tobytes()


def test_router_ties_go_to_the_lowest_index() -> None:
    weights = random_weights(MODEL)
    for layer in range(MODEL.n_layers):
        gate = weights[f"blk.{layer}.ffn_gate_inp.weight"]
        gate[5] = gate[2]  # two experts that always tie
    engine = tiny_engine(MODEL, weights=weights)
    events: list[TapEvent] = []
    with engine.tap(events.append):
        engine.session(32).eval(IDS, Phase.PROMPT)
    chosen = [e.chosen[0].tolist() for e in events if e.chosen is not None]
    assert any(2 in row for row in chosen)
    for row in chosen:
        if 5 in row:
            assert row.index(2) < row.index(5)
    engine.close()


# ---- Many experts ----


def test_64_experts(engine: Engine) -> None:
    """The most there may be; a file of 64 equal experts is the model of one of them."""
    many = replace(MODEL, n_experts=64, n_experts_used=3)
    weights = random_weights(many)
    one = {name: w.copy() for name, w in weights.items()}
    for name, weight in weights.items():
        if "_exps" in name:
            weight[:] = weight[0]
            one[name] = weight[:1].copy()
        elif "gate_inp" in name:
            one[name] = weight[:1].copy()
    equal = tiny_engine(many, weights=weights)
    single = tiny_engine(replace(MODEL, n_experts=1, n_experts_used=1), weights=one)
    found = equal.session(32, "f32").eval(IDS, Phase.PROMPT)
    expected = single.session(32, "f32").eval(IDS, Phase.PROMPT)
    assert np.abs(found - expected).max() < 1e-4
    equal.close()
    single.close()


# ---- Estimates ----


def test_kv_bytes() -> None:
    per_position = 2 * MODEL.n_layers * MODEL.n_kv_heads * MODEL.head_dim
    assert kv_bytes(MODEL, 100) == 100 * per_position * 2
    assert kv_bytes(MODEL, 100, "f32") == 100 * per_position * 4


def test_scratch_grows_with_the_pass() -> None:
    small = scratch_bytes(BLOCK_MODEL, EngineOptions(threads=1, batch_rows=8))
    large = scratch_bytes(BLOCK_MODEL, EngineOptions(threads=1, batch_rows=512))
    assert 0 < small < large
