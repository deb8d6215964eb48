"""How each kind of row of the table is measured."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from bandwidth import ReadBandwidth
from cold_start import N_CTX, PeerProgram, our_program
from contenders import WARM_UP_IDS, Contender, Ours, Peer, PeerError
from race import Race, Result
from results import BANDWIDTH, RATIO, Figure, Record, Speed, Trial, best_trial
from targets import MEMORY_ERROR, NONE, Row

from pymixtral import Phase, PymixtralError
from pymixtral.loader import open_model
from pymixtral.roofline import expert_products, measure_limits

SWEEP_ROUNDS = 2
EXPERT_MATMULS = ("gate, up, SiLU", "down")  # parts of Engine.op_seconds


@dataclass(frozen=True)
class Setup:
    """What all rows of a run share.

    Attributes:
        models: folder of the model files.
        pythons: package -> an interpreter that has it.
        repack: we copy the weights into our layout while loading.
    """

    models: Path
    pythons: dict[str, str]
    threads: int
    rounds: int
    facts: dict[str, str]
    repack: bool = False

    def path(self, row: Row) -> Path:
        return self.models / row.model


def measure(row: Row, setup: Setup) -> Record:
    """Measures a row.

    Raises:
        PeerError: the peer cannot run.
        PymixtralError: we cannot, as on a CPU that has not the row's tier.
        FormatError: the model file is malformed.
    """
    if row.test == "memory":
        return _measure_memory(row, setup)
    if row.test == "first token":
        return _measure_first_token(row, setup)
    _check_context(row, setup)
    sweep = run_sweep(
        row, lambda settings: _start_peer(row, setup, settings), _random_ids(row, setup)
    )
    if row.part_kept is not None:
        return _race_with_a_core_busy(row, setup, sweep)
    return _race(row, setup, sweep)


# ---- The sweep ----


def run_sweep(
    row: Row, start: Callable[[dict[str, int]], Contender], ids: list[int]
) -> list[Trial]:
    """Measures the peer with each of its settings. Each is loaded alone: repacked weights take as
    much memory as the file.

    Raises:
        PeerError: it runs with none of them.
    """
    trials = []
    for settings in row.sweep():
        chosen = {key: settings[key] for key in row.choices}
        try:
            with closing(start(settings)) as peer:
                _fill(row, [peer], ids)
                seconds = [peer.measure(row.test, _of_test(row, ids)) for _ in range(SWEEP_ROUNDS)]
            trial = Trial(settings, per_second=_n_tokens(row) / statistics.median(seconds))
            say(f"  {chosen}: {trial.per_second:.2f} per second")
        except PeerError as error:
            trial = Trial(settings, error=str(error))
            say(f"  {chosen}: {error}")
        trials.append(trial)
    if best_trial(trials) is None:
        raise PeerError(f"{row.package} ran with no settings: {trials[0].error}")
    return trials


def _best_settings(sweep: Sequence[Trial]) -> dict[str, int]:
    best = best_trial(sweep)
    if best is None:
        raise PeerError("the peer ran with no settings")
    return best.settings


# ---- Races ----


def _race(row: Row, setup: Setup, sweep: list[Trial]) -> Record:
    with _contenders(row, setup, sweep) as (ours, peer):
        engine = ours.llm.engine
        bandwidth = ReadBandwidth(engine)
        race = _new_race(row, setup, ours)
        before = _expert_seconds(ours)
        for ids in _rounds(row, setup):
            race.run_round([ours, peer], bandwidth, ids)
        seconds = _expert_seconds(ours) - before
        our_result, peer_result = race.results()
        figures = [Figure(RATIO, peer_result.ours_over_this, row.ratio)]
        if our_result.bandwidth_fraction is not None and not row.depth:
            what = f"{BANDWIDTH}, {max(race.bandwidths) / 1e9:.1f} GB/s"
            figures.append(Figure(what, our_result.bandwidth_fraction, row.part_of_limit))
        if row.test == "prefill" and not row.depth:
            limits = measure_limits(engine)
            file = ours.llm.file
            products = expert_products(file.gguf, file.hparams, row.n)
            rate = products * setup.rounds / seconds
            peak = limits.products_per_second
            what = f"experts' matmuls, of {peak / 1e9:.0f} GMAC/s ({limits.instruction})"
            figures.append(Figure(what, rate / peak, row.part_of_limit))
    return Record(
        row.name,
        setup.facts,
        speeds=_speeds((our_result, peer_result)),
        figures=figures,
        sweep=sweep,
        notes=[f"the peer is {peer_result.engine}"],
    )


def _race_with_a_core_busy(row: Row, setup: Setup, sweep: list[Trial]) -> Record:
    with _contenders(row, setup, sweep) as (ours, peer):
        bandwidth = ReadBandwidth(ours.llm.engine)
        quiet, busy = _new_race(row, setup, ours), _new_race(row, setup, ours)
        quiet_cores, busy_cores = [], []
        for ids in _rounds(row, setup):
            quiet.run_round([ours, peer], bandwidth, ids)
            quiet_cores.append(ours.cores_used)
            with _busy_core():
                busy.run_round([ours, peer], bandwidth, ids)
            busy_cores.append(ours.cores_used)
    kept = [
        statistics.median(b / a for a, b in zip(before, after, strict=True))
        for before, after in zip(
            quiet.speeds[row.test].values(), busy.speeds[row.test].values(), strict=True
        )
    ]
    our_result, peer_result = busy.results()
    return Record(
        row.name,
        setup.facts,
        speeds=_speeds((our_result, peer_result)),
        figures=[
            Figure("kept of our quiet speed", kept[0], row.part_kept or NONE),
            Figure("kept of the peer's", kept[1], NONE),
            Figure(RATIO, peer_result.ours_over_this, row.ratio),
        ],
        sweep=sweep,
        notes=[
            f"the peer is {peer_result.engine}",
            f"of {setup.threads} cores, the scheduler gave us {statistics.median(busy_cores):.2f}, "
            f"and {statistics.median(quiet_cores):.2f} when all was quiet",
        ],
    )


@contextmanager
def _contenders(row: Row, setup: Setup, sweep: list[Trial]) -> Iterator[tuple[Ours, Peer]]:
    """Us, and the peer at its best settings, with the row's depth filled."""
    path, n_ctx = setup.path(row), _n_ctx(row)
    ours = Ours(path, n_ctx, setup.threads, row.kv_type, row.sequences, row.tier, setup.repack)
    with closing(ours), closing(_start_peer(row, setup, _best_settings(sweep))) as peer:
        _fill(row, [ours, peer], _random_ids(row, setup))
        yield ours, peer


@contextmanager
def _busy_core() -> Iterator[None]:
    """Another process that computes for ever, on whichever core the kernel puts it."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _start_peer(row: Row, setup: Setup, settings: dict[str, int]) -> Peer:
    here = {"n_ctx": _n_ctx(row), "n_threads": setup.threads, "n_sequences": row.sequences}
    return Peer(setup.pythons[row.package], row.package, setup.path(row), settings | here)


def _new_race(row: Row, setup: Setup, ours: Ours) -> Race:
    n_bytes = ours.bytes_per_token(_of_test(row, _random_ids(row, setup)))
    return Race(sizes={row.test: _n_tokens(row)}, bytes_per_token=n_bytes)


def _expert_seconds(ours: Ours) -> float:
    """That prompts have spent in the experts' matmuls so far."""
    seconds = ours.llm.engine.op_seconds(Phase.PROMPT)
    return sum(seconds[part] for part in EXPERT_MATMULS)


def _speeds(results: Sequence[Result]) -> list[Speed]:
    return [Speed(r.engine, r.tokens_per_second, r.spread) for r in results]


# ---- Ids ----


def _n_tokens(row: Row) -> int:
    return row.n * row.sequences


def _n_ctx(row: Row) -> int:
    return max(row.depth + row.n, len(WARM_UP_IDS))


def _random_ids(row: Row, setup: Setup, seed: int = 0) -> list[int]:
    """Those of the depth, then those of the test."""
    n_vocab = _n_vocab(setup.path(row))
    return np.random.default_rng(seed).integers(0, n_vocab, row.depth + _n_tokens(row)).tolist()


def _check_context(row: Row, setup: Setup) -> None:
    """That the model has room for the row, before the peer is swept through its settings."""
    file = open_model(setup.path(row))
    with closing(file.gguf):
        file.choose_n_ctx(_n_ctx(row))


@cache
def _n_vocab(model: Path) -> int:
    file = open_model(model)
    with closing(file.gguf):
        return file.hparams.n_vocab


def _of_test(row: Row, ids: list[int]) -> list[int]:
    return ids[row.depth :]


def _fill(row: Row, contenders: Sequence[Contender], ids: list[int]) -> None:
    for contender in contenders if row.depth else ():
        contender.measure("fill", ids[: row.depth])


def _rounds(row: Row, setup: Setup) -> Iterator[list[int]]:
    """New ids for the test, each round."""
    for i in range(setup.rounds):
        say(f"  round {i + 1} of {setup.rounds}")
        yield _of_test(row, _random_ids(row, setup, seed=i + 1))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- Programs ----


def _measure_first_token(row: Row, setup: Setup) -> Record:
    def start(settings: dict[str, int]) -> PeerProgram:
        here = {"n_ctx": N_CTX, "n_threads": setup.threads, "n_sequences": 1}
        return PeerProgram(setup.pythons[row.package], setup.path(row), settings | here)

    sweep = run_sweep(row, start, [])
    ours, peer = our_program(setup.path(row), setup.threads), start(_best_settings(sweep))
    race = Race(sizes={row.test: 1}, bytes_per_token=0)
    import_seconds = []
    for _ in _rounds(row, setup):
        race.run_round([ours, peer], None, [])
        import_seconds.append(peer.import_seconds)
    our_result, peer_result = race.results()
    imported = statistics.median(import_seconds)
    return Record(
        row.name,
        setup.facts,
        speeds=_speeds((our_result, peer_result)),
        figures=[Figure(RATIO, peer_result.ours_over_this, row.ratio)],
        sweep=sweep,
        notes=[
            f"the peer is {peer_result.engine}",
            f"of the peer's time, importing its package takes {1000 * imported:.0f} ms",
        ],
    )


def _measure_memory(row: Row, setup: Setup) -> Record:
    script = Path(__file__).with_name("resident_memory.py")
    command = [sys.executable, str(script), str(setup.path(row)), "--prompt", str(row.n)]
    process = subprocess.run(command, stdout=subprocess.PIPE)
    if process.returncode:
        raise PymixtralError(f"{script.name} failed ({process.returncode})")
    found = json.loads(process.stdout)
    estimate, resident = found["estimate"], found["resident"]
    return Record(
        row.name,
        setup.facts,
        figures=[Figure("off the estimate", abs(resident / estimate - 1), MEMORY_ERROR)],
        notes=[f"resident {resident / 1e9:.3f} GB, estimate {estimate / 1e9:.3f} GB"],
    )
