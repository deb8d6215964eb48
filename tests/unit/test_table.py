"""The table of targets: what is chosen, judged, kept and written; nothing is timed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCH)
    return import_module("targets")


@pytest.fixture
def results(targets: ModuleType) -> ModuleType:
    return import_module("results")


@pytest.fixture
def row(targets: ModuleType) -> object:
    choices = {"repack": (0, 1), "n_batch": (512, 2048)}
    return targets.Row("fast", "m.gguf", "prefill", 8, targets.Target(2, 4), choices=choices)


def test_the_sweep_has_every_combination_of_the_choices(row: object) -> None:
    swept = row.sweep()
    assert [(each["repack"], each["n_batch"]) for each in swept] == [
        (0, 512),
        (0, 2048),
        (1, 512),
        (1, 2048),
    ]
    assert all(each["flash_attn"] == 0 for each in swept)


def test_rows_have_names_and_models_of_their_own(targets: ModuleType) -> None:
    names = [row.name for row in targets.ROWS]
    assert len(set(names)) == len(names)
    assert {row.model for row in targets.ROWS} == set(targets.MODELS)


def test_both_kv_caches_are_of_the_rows_type(targets: ModuleType) -> None:
    for row in targets.ROWS:
        assert {each["kv_q8_0"] for each in row.sweep()} == {row.kv_type == "q8_0"}


@pytest.mark.parametrize(
    ("value", "is_limit", "verdict"),
    [
        (1.9, False, "**not met**"),
        (2.0, False, "met"),
        (4.0, False, "goal reached"),
        (2.1, True, "**not met**"),
        (2.0, True, "met"),
        (0.9, True, "goal reached"),
    ],
)
def test_a_figure_is_judged(
    results: ModuleType, targets: ModuleType, value: float, is_limit: bool, verdict: str
) -> None:
    target = targets.Target(2, 1 if is_limit else 4, is_limit)
    assert results.Figure("", value, target).cells()[-1] == verdict


def test_more_than_the_measured_bandwidth_meets_nothing(
    results: ModuleType, targets: ModuleType
) -> None:
    target = targets.Target(0.85, 0.95)
    verdicts = [
        results.Figure("of the read bandwidth, 40.0 GB/s", value, target).cells()[-1]
        for value in (0.97, 1.03)
    ]
    assert verdicts == ["goal reached", "memory was faster than when it was measured"]


def test_a_table_is_of_one_cpu(results: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    table = import_module("table")
    record = results.Record("decode", {"CPU": "old"})
    new, old = (
        table.Setup(Path(), {}, threads=1, rounds=1, facts={"CPU": cpu}) for cpu in ("new", "old")
    )
    table.check_machine(old, {"decode": record}, Path("RESULTS.md"))
    with pytest.raises(SystemExit, match=r"of another CPU \(old\); choose another --out"):
        table.check_machine(new, {"decode": record}, Path("RESULTS.md"))


def test_a_figure_without_a_requirement(results: ModuleType, targets: ModuleType) -> None:
    cells = results.Figure("part", 0.25, targets.Target(goal=0.5)).cells()
    assert cells == ["part", "25.0%", "", "50.0%", "goal not reached"]
    assert results.Figure("part", 0.25, targets.NONE).cells()[-1] == ""


def test_the_best_trial_is_the_fastest_that_ran(results: ModuleType) -> None:
    failed = results.Trial({"repack": 1}, error="no memory")
    slow, fast = (results.Trial({"repack": 0}, per_second=speed) for speed in (1.0, 2.0))
    assert results.best_trial([failed, slow, fast]) is fast
    assert results.best_trial([failed]) is None


def test_records_are_kept_and_written(
    results: ModuleType, targets: ModuleType, row: object, tmp_path: Path
) -> None:
    path = tmp_path / "RESULTS.jsonl"
    facts = {"CPU": "a fast one"}
    record = results.Record(
        "fast",
        facts,
        speeds=[results.Speed("ours", 30.0, 0.01), results.Speed("theirs", 10.0, 0.02)],
        figures=[results.Figure(results.RATIO, 3.0, row.ratio)],
        sweep=[
            results.Trial(settings, per_second=speed)
            for settings, speed in zip(row.sweep(), (8.0, 10.0, 9.0, 7.0), strict=True)
        ],
    )
    results.append_record(path, record)
    results.append_record(path, results.Record("fast", facts, not_run="out of memory"))
    results.append_record(path, results.Record("absent", facts, not_run="there is no x.gguf"))
    records = results.read_records(path)
    assert records["fast"] == record  # a later failure does not undo it

    absent = targets.Row("absent", "x.gguf", "decode", 1)
    page = results.render([row, absent], records)
    assert (
        "| fast | 30.00 tokens/s, spread 1% | 10.00 tokens/s, spread 2% "
        "| ours / peer | 3.00x | 2.00x | 4.00x | met |\n"
    ) in page
    assert "| CPU | a fast one |\n" in page
    assert "- **absent**: there is no x.gguf\n" in page
    assert "| 0 | 2048 | **10.00** |\n" in page


def test_a_wrong_interpreter_is_told(results: ModuleType, tmp_path: Path) -> None:
    contenders = import_module("contenders")
    settings = contenders.PEER_DEFAULTS["llama_cpp"]
    for python, told in (("/no/such/python", "cannot run"), ("/bin/echo", "is no Python")):
        with pytest.raises(contenders.PeerError, match=f"{told}"):
            contenders.Peer(python, "llama_cpp", tmp_path / "x.gguf", settings)


def test_results_go_into_a_folder_that_was_not_there(
    results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "new" / "RESULTS.md"
    arguments = ["table.py", "--models", str(tmp_path), "--row", "decode-Q4_0", "--out", str(page)]
    monkeypatch.setattr("sys.argv", arguments)
    import_module("table").main()
    assert "**decode-Q4_0**: there is no" in page.read_text(encoding="utf-8")
