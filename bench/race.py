"""Interleaved measurements, and what follows from them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bandwidth import ReadBandwidth
from contenders import Contender

PAUSE = 0.5  # seconds; OpenMP's threads spin for 0.2 after their last work


@dataclass(frozen=True)
class Result:
    """A row of the table.

    Attributes:
        tokens_per_second: the median of the rounds.
        spread: (fastest - slowest) / median.
        ours_over_this: the median of the rounds' ratios; 1 for ourselves.
        bandwidth_fraction: of the best read bandwidth, where tokens are generated.
    """

    engine: str
    test: str
    n: int
    tokens_per_second: float
    spread: float
    ours_over_this: float
    bandwidth_fraction: float | None


@dataclass
class Race:
    """What a run measured: for each round tokens per second by test and contender."""

    sizes: dict[str, int]  # test -> tokens
    bytes_per_token: int
    speeds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    bandwidths: list[float] = field(default_factory=list)  # bytes per second

    def run_round(
        self, contenders: Sequence[Contender], bandwidth: ReadBandwidth | None, ids: list[int]
    ) -> None:
        self._measure(bandwidth)
        for test, n in self.sizes.items():
            for contender in contenders:
                time.sleep(PAUSE)
                seconds = contender.measure(test, ids[:n])
                speeds = self.speeds.setdefault(test, {})
                speeds.setdefault(contender.name, []).append(n / seconds)
        self._measure(bandwidth)

    def _measure(self, bandwidth: ReadBandwidth | None) -> None:
        """Before a round and after it: memory may become faster meanwhile."""
        if bandwidth is not None:
            self.bandwidths.append(bandwidth.measure())

    def results(self) -> Iterator[Result]:
        """One result for each test and contender; the first contender is ours."""
        for test, speeds in self.speeds.items():
            ours = next(iter(speeds.values()))
            for name, theirs in speeds.items():
                median = statistics.median(theirs)
                ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
                yield Result(
                    engine=name,
                    test=test,
                    n=self.sizes[test],
                    tokens_per_second=median,
                    spread=(max(theirs) - min(theirs)) / median,
                    ours_over_this=ratio,
                    bandwidth_fraction=median * self.bytes_per_token / max(self.bandwidths)
                    if test in ("decode", "batch")
                    else None,
                )


def print_table(results: Sequence[Result]) -> None:
    width = max(len(result.engine) for result in results)
    print(f"{'engine':{width}}  {'test':12}  tokens/s  spread  ours/this  of bandwidth")
    for r in results:
        fraction = "" if r.bandwidth_fraction is None else f"{r.bandwidth_fraction:.0%}"
        print(
            f"{r.engine:{width}}  {f'{r.test} {r.n}':12}  {r.tokens_per_second:8.2f}"
            f"  {r.spread:6.0%}  {r.ours_over_this:9.2f}  {fraction:>12}"
        )
