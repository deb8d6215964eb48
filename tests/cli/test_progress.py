"""The bar that conversions show on a terminal."""

from __future__ import annotations

import re
import sys

import pytest

from pymixtral.cli import console
from pymixtral.cli.console import Console


def test_bar_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    seconds = iter((0.0, 2.0, 3.0))
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(seconds))
    with Console().byte_progress() as progress:
        progress("blk.0.attn_q.weight", 0, 200_000_000)
        progress("blk.1.attn_q.weight", 50_000_000, 200_000_000)
        progress("output.weight", 200_000_000, 200_000_000)
    bars = re.findall(r"\[[#.]+\][^\r]*", capsys.readouterr().err)
    assert bars == [
        f"[{'#' * 7}{'.' * 23}]  25% 25 MB/s, 6 s left  blk.1.attn_q.weight",
        f"[{'#' * 30}] 100% 67 MB/s, 0 s left  output.weight",
    ]


def test_no_bar_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().byte_progress() as progress:
        progress("a", 0, 2)
        progress("b", 2, 2)
    assert capsys.readouterr().err == ""
