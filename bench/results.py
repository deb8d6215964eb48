"""What rows of the table gave: kept as JSON lines, and written as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from targets import Row, Target


@dataclass(frozen=True)
class Figure:
    """A number that may have a target."""

    what: str
    value: float
    target: Target

    def __str__(self) -> str:
        return self._shown(self.value)

    def cells(self) -> list[str]:
        """What, value, required, goal, and what is met."""
        target = self.target
        bounds = ["" if b is None else self._bound(b) for b in (target.required, target.goal)]
        return [self.what, str(self), *bounds, self._verdict()]

    def _verdict(self) -> str:
        if self.what.startswith(BANDWIDTH) and self.value > 1:
            return "memory was faster than when it was measured"
        met, reached = self.target.is_met(self.value), self.target.reaches_goal(self.value)
        if reached:
            return "goal reached"
        if met is False:
            return "**not met**"
        if met:
            return "met"
        return "" if reached is None else "goal not reached"

    def _bound(self, value: float) -> str:
        return f"at most {self._shown(value)}" if self.target.is_limit else self._shown(value)

    def _shown(self, value: float) -> str:
        return f"{value:.2f}x" if self.what == RATIO else f"{value:.1%}"


RATIO = "ours / peer"
BANDWIDTH = "of the read bandwidth"


@dataclass(frozen=True)
class Speed:
    """An engine's median over the rounds.

    Attributes:
        per_second: tokens, or starts of the program.
        spread: (fastest - slowest) / median.
    """

    engine: str
    per_second: float
    spread: float


@dataclass(frozen=True)
class Trial:
    """Settings of the peer in the sweep: tokens (or starts) per second, or why there are none."""

    settings: dict[str, int]
    per_second: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Record:
    """What a row gave; or why it was not run.

    Attributes:
        facts: of the machine and the run.
        speeds: ours, then the peer's, at its best settings.
        notes: other things that were measured, a sentence each.
    """

    row: str
    facts: dict[str, str]
    not_run: str | None = None
    speeds: list[Speed] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    sweep: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# ---- JSON lines ----


def append_record(path: Path, record: Record) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read_records(path: Path) -> dict[str, Record]:
    """The last record of each row; a row that gave something is not undone by a later failure."""
    if not path.exists():
        return {}
    kept: dict[str, Record] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = _record(json.loads(line))
        if is_done(record) or not is_done(kept.get(record.row)):
            kept[record.row] = record
    return kept


def is_done(record: Record | None) -> bool:
    return record is not None and record.not_run is None


def _record(document: dict[str, Any]) -> Record:
    figures = [
        Figure(each["what"], each["value"], Target(**each["target"]))
        for each in document.pop("figures")
    ]
    speeds = [Speed(**each) for each in document.pop("speeds")]
    sweep = [Trial(**each) for each in document.pop("sweep")]
    return Record(**document, figures=figures, speeds=speeds, sweep=sweep)


# ---- Markdown ----


def render(rows: Sequence[Row], records: dict[str, Record]) -> str:
    """RESULTS.md: the table, what was not run, and the sweeps."""
    done = [(row, records[row.name]) for row in rows if is_done(records.get(row.name))]
    missing = [row for row in rows if not is_done(records.get(row.name))]
    sections = [
        "# Results\n\nWritten by `bench/table.py`; [README.md](README.md) tells how to repeat it. "
        "Speeds are medians of interleaved rounds; the spread is (fastest - slowest) / median; "
        "ratios are medians of the rounds' ratios.",
        "\n".join(_facts([record for _, record in done])),
        "\n".join(_table(done)),
    ]
    if missing:
        sections.append("\n".join(["## Not run", "", *_not_run(missing, records)]))
    notes = [f"- {row.name}: {note}" for row, record in done for note in record.notes]
    if notes:
        sections.append("\n".join(["## Beside", "", *notes]))
    sections.append(
        "## Sweeps\n\nEvery setting of the peer alone, two rounds each; the best, in bold, raced."
    )
    sections += ["\n".join(_sweep(row, record)) for row, record in done if record.sweep]
    return "\n\n".join(section for section in sections if section) + "\n"


def _facts(records: Sequence[Record]) -> Iterator[str]:
    """What the rows have in common, or all that they differ in."""
    if not records:
        return
    yield from markdown_row(["of the run", ""], is_head=True)
    for key in records[0].facts:
        values = dict.fromkeys(record.facts[key] for record in records)
        yield from markdown_row([key, "; ".join(values)])


def _table(done: Iterable[tuple[Row, Record]]) -> Iterator[str]:
    heads = ["row", "ours", "peer", "figure", "value", "required", "goal", ""]
    yield from markdown_row(heads, is_head=True)
    for row, record in done:
        lead = [row.name, *(_speed(row, speed) for speed in record.speeds)]
        lead += [""] * (3 - len(lead))
        for figure in record.figures:
            yield from markdown_row([*lead, *figure.cells()])
            lead = ["", "", ""]


def _not_run(missing: Iterable[Row], records: dict[str, Record]) -> Iterator[str]:
    for row in missing:
        record = records.get(row.name)
        yield f"- **{row.name}**: {record.not_run if record else 'not asked for yet'}"


def _sweep(row: Row, record: Record) -> Iterator[str]:
    yield f"### {row.name}"
    yield ""
    yield from markdown_row([*row.choices, unit(row)], is_head=True)
    best = best_trial(record.sweep)
    for trial in record.sweep:
        speed = trial.error or _amount(row, trial.per_second)
        cells = [str(trial.settings[key]) for key in row.choices]
        yield from markdown_row([*cells, f"**{speed}**" if trial is best else speed])


def best_trial(sweep: Sequence[Trial]) -> Trial | None:
    """The fastest; None if all failed."""
    ran = [trial for trial in sweep if trial.per_second is not None]
    return max(ran, key=lambda trial: trial.per_second, default=None)


def unit(row: Row) -> str:
    return "ms" if row.test == "first token" else "tokens/s"


def _amount(row: Row, per_second: float) -> str:
    return f"{1000 / per_second if unit(row) == 'ms' else per_second:.2f}"


def _speed(row: Row, speed: Speed) -> str:
    return f"{_amount(row, speed.per_second)} {unit(row)}, spread {speed.spread:.0%}"


def markdown_row(cells: Sequence[str], is_head: bool = False) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"
    if is_head:
        yield "|---" * len(cells) + "|"
