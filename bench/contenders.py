"""The engines that peers.py races: pymixtral in this process, llama.cpp in one of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

from pymixtral import LLM, Phase

# The first prompt is not raced: page faults and repacking fall into it. It touches every expert.
WARM_UP_IDS = list(range(64))


class Contender(Protocol):
    """An engine with the model loaded, and warm."""

    name: str
    seconds_to_ready: float  # from nothing to the end of the first prompt

    def measure(self, test: str, ids: list[int]) -> float:
        """Seconds for a prompt of `ids` ("prefill"), or to take them one by one ("decode")."""
        ...

    def close(self) -> None: ...


class Ours:
    """pymixtral, in this process."""

    def __init__(self, model: Path, n_ctx: int, n_threads: int | None) -> None:
        start = time.perf_counter()
        self.llm = LLM(model, n_ctx=n_ctx, threads=n_threads)
        self.name = f"pymixtral ({self.llm.engine.tier})"
        self._session = self.llm.engine.session(n_ctx)
        self.measure("prefill", WARM_UP_IDS)
        self.seconds_to_ready = time.perf_counter() - start

    def measure(self, test: str, ids: list[int]) -> float:
        self._session.truncate(0)
        start = time.perf_counter()
        if test == "prefill":
            self._session.eval(ids, Phase.PROMPT)
        else:
            for i in ids:
                self._session.eval([i], Phase.GENERATED)
        return time.perf_counter() - start

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


PEER_DEFAULTS = {"n_batch": 512, "flash_attn": 0, "repack": 1}


def peer_settings(text: str) -> dict[str, int]:
    """`n_batch=2048,repack=0` as a dict, with defaults for what it leaves out."""
    settings = dict(PEER_DEFAULTS)
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in settings or not value.isdecimal():
            raise argparse.ArgumentTypeError(f"{part}: must be one of {', '.join(settings)}=NUMBER")
        settings[key] = int(value)
    return settings
