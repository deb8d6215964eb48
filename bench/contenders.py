"""The engines that peers.py races: pymixtral in this process, llama.cpp in one of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

from pymixtral import LLM, Phase
from pymixtral.engine import EvalItem

# The first prompt is not raced: page faults and repacking fall into it. It touches every expert.
WARM_UP_IDS = list(range(64))


class Contender(Protocol):
    """An engine with the model loaded, and warm."""

    name: str
    seconds_to_ready: float  # from nothing to the end of the first prompt

    def measure(self, test: str, ids: list[int]) -> float:
        """Seconds for a prompt of `ids` ("prefill"), or to take them one by one ("decode").

        Both come after the ids of the last "fill", which begins an empty context. "batch" takes one
        id of each sequence at a time, in empty contexts.
        """
        ...

    def close(self) -> None: ...


class Ours:
    """pymixtral, in this process."""

    def __init__(
        self, model: Path, n_ctx: int, n_threads: int | None, kv_type: str, n_sequences: int
    ) -> None:
        start = time.perf_counter()
        self.llm = LLM(model, n_ctx=n_ctx, threads=n_threads, kv_type=kv_type)
        self.name = f"pymixtral ({self.llm.engine.tier}, KV {kv_type})"
        self._sessions = [self.llm.new_session() for _ in range(n_sequences)]
        self._depth = 0
        self.measure("prefill", WARM_UP_IDS)
        self.seconds_to_ready = time.perf_counter() - start

    def measure(self, test: str, ids: list[int]) -> float:
        if test in ("fill", "batch"):
            self._depth = 0
        session, n = self._sessions[0], len(self._sessions)
        for each in self._sessions:
            each.truncate(min(len(each), self._depth))
        start = time.perf_counter()
        if test == "batch":
            for at in range(0, len(ids), n):
                items = [EvalItem(s, [i]) for s, i in zip(self._sessions, ids[at:], strict=False)]
                self.llm.engine.eval(items, Phase.GENERATED)
        elif test == "decode":
            for i in ids:
                session.eval([i], Phase.GENERATED)
        else:
            session.eval(ids, Phase.PROMPT)
        seconds = time.perf_counter() - start
        if test == "fill":
            self._depth = len(ids)
        return seconds

    def close(self) -> None:
        self.llm.close()


class PeerError(Exception):
    """The peer is not installed, or failed."""


class Peer:
    """llama.cpp, in a process that runs peer_worker.py."""

    def __init__(self, python: str, model: Path, settings: dict[str, Any]) -> None:
        start = time.perf_counter()
        worker = Path(__file__).with_name("peer_worker.py")
        self._process = subprocess.Popen(
            [python, str(worker), str(model), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        shown = ", ".join(f"{key} {settings[key]:d}" for key in PEER_DEFAULTS)
        self.name = f"llama_cpp {self._answer()['version']} ({shown})"
        self.measure("prefill", WARM_UP_IDS)
        self.seconds_to_ready = time.perf_counter() - start

    def measure(self, test: str, ids: list[int]) -> float:
        print(json.dumps({"test": test, "ids": ids}), file=self._process.stdin, flush=True)
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended ({self._process.wait()})"}
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


PEER_DEFAULTS = {"n_batch": 512, "flash_attn": 0, "repack": 1, "kv_q8_0": 0, "kv_unified": 0}


def peer_settings(text: str) -> dict[str, int]:
    """`n_batch=2048,repack=0` as a dict, with defaults for what it leaves out."""
    settings = dict(PEER_DEFAULTS)
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in settings or not value.isdecimal():
            raise argparse.ArgumentTypeError(f"{part}: must be one of {', '.join(settings)}=NUMBER")
        settings[key] = int(value)
    return settings
