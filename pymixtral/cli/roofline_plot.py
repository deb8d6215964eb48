"""A picture of the roofline, with the tests beneath it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pymixtral.roofline import Cost, Limits

COLOURS = ("#7b2d8b", "#d1603d")


class Test(Protocol):
    """What is drawn of a test."""

    @property
    def test(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def cost(self) -> Cost: ...
    @property
    def seconds(self) -> float: ...


def draw_roofline(path: str, name: str, limits: Limits, tests: Sequence[Test]) -> None:
    """Write the picture.

    Args:
        path: where to, see `check_plot`.
        name: of the model.
        limits: the roof.
        tests: a point each.
    """
    from matplotlib.figure import Figure

    ridge = limits.products_per_second / limits.bytes_per_second
    intensities = [test.cost.intensity for test in tests]
    span = np.geomspace(min(ridge, *intensities) / 3, max(ridge, *intensities) * 3, 200)
    roof = np.minimum(span * limits.bytes_per_second, limits.products_per_second) / 1e9
    figure = Figure(figsize=(8, 5), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.loglog(span, roof, color="black")
    axes.annotate(
        f"{limits.bytes_per_second / 1e9:.1f} GB/s",
        (span[50], roof[50]),
        textcoords="offset points",
        xytext=(-8, 4),
        ha="right",
    )
    axes.annotate(
        f"{limits.products_per_second / 1e9:.0f} GMAC/s ({limits.instruction})",
        (span[-1], roof[-1]),
        textcoords="offset points",
        xytext=(-4, 6),
        ha="right",
    )
    for test, colour in zip(tests, COLOURS, strict=True):
        fraction = limits.fraction(test.cost, test.seconds)
        axes.plot(
            test.cost.intensity,
            test.cost.n_products / test.seconds / 1e9,
            "o",
            color=colour,
            label=f"{test.test} {test.n}: {fraction:.0%} of the roof",
        )
    axes.set_ylim(top=2 * roof[-1])
    axes.set_xlabel("multiply-adds for each byte of weights")
    axes.set_ylabel("10\u2079 multiply-adds per second")
    axes.set_title(f"{name}: what memory and arithmetic allow", parse_math=False)
    axes.grid(which="both", alpha=0.2)
    axes.legend(loc="lower right")
    figure.savefig(path)
