"""The engines that race: pymixtral in this process, another in one of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pymixtral import LLM, Phase
from pymixtral.engine import EvalItem, Logits, TapEvent
from pymixtral.formats.names import TensorRole
from pymixtral.roofline import batch_bytes, decode_cost

# What is not raced: page faults and repacking fall into the first prompt; then the same ids one by
# one, as a prompt leaves out most experts of the last layer.
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
        self,
        model: Path,
        n_ctx: int,
        n_threads: int | None,
        kv_type: str,
        n_sequences: int,
        tier: str | None = None,
        repack: bool = False,
    ) -> None:
        start = time.perf_counter()
        self.llm = LLM(
            model, n_ctx=n_ctx, threads=n_threads, kv_type=kv_type, tier=tier, repack=repack
        )
        layout = ", repacked" if repack else ""
        self.name = f"pymixtral ({self.llm.engine.tier}, KV {kv_type}{layout})"
        self._sessions = [self.llm.new_session() for _ in range(n_sequences)]
        self._kv_type = kv_type
        self._depth = 0
        self.cores_used = 0.0  # CPU time over time, of the last measurement
        self.measure("prefill", WARM_UP_IDS)
        self.seconds_to_ready = time.perf_counter() - start
        self.measure("decode", WARM_UP_IDS)

    def bytes_per_token(self, ids: list[int]) -> int:
        """That a generated token needs, after what fills the context: weights, keys and values.

        Of several sessions, its share of the weights of a step.

        Experts that no session chose are not read; how many are is counted while they take `ids`.
        """
        gguf, hparams, n = self.llm.file.gguf, self.llm.file.hparams, len(self._sessions)
        if n == 1:
            cost = decode_cost(gguf, hparams, self._depth, len(ids), self._kv_type)
            return round(cost.n_bytes / len(ids))
        n_read = 0

        def count(event: TapEvent) -> None:
            nonlocal n_read
            n_read += event.role == TensorRole.FFN_GATE  # shown once for each expert that is used

        with self.llm.engine.tap(count):
            self.measure("batch", ids)
        n_steps = -(-len(ids) // n)
        return round(batch_bytes(gguf, hparams, n_read / (n_steps * hparams.n_layers)) / n)

    def measure(self, test: str, ids: list[int]) -> float:
        if test in ("fill", "batch"):
            self._depth = 0
        session, n = self._sessions[0], len(self._sessions)
        for each in self._sessions:
            each.truncate(min(len(each), self._depth))
        start, cpu_start = time.perf_counter(), time.process_time()
        if test == "batch":
            for at in range(0, len(ids), n):
                items = [EvalItem(s, [i]) for s, i in zip(self._sessions, ids[at:], strict=False)]
                self.llm.engine.eval(items, Phase.GENERATED)
        elif test == "decode":
            for i in ids:
                session.eval([i], Phase.GENERATED)
        else:
            session.eval(ids, Phase.PROMPT, n_logits=self._n_logits(len(ids)))
        seconds = time.perf_counter() - start
        self.cores_used = (time.process_time() - cpu_start) / seconds
        if test == "fill":
            self._depth = len(ids)
        return seconds

    def _n_logits(self, n_ids: int) -> int:
        """All of a model of one layer: it would attend for the last token alone, but peers do not.

        What models of one layer are here for is to measure attention.
        """
        return n_ids if self.llm.file.hparams.n_layers == 1 else 1

    def close(self) -> None:
        self.llm.close()


class PeerError(Exception):
    """The peer is not installed, or failed."""


class Peer:
    """Another engine, in a process that runs peer_worker.py.

    Args:
        python: an interpreter that has the package.
        package: a key of PEER_DEFAULTS.
        settings: those of bindings.py.

    Raises:
        PeerError: it cannot run, is not installed, or failed.
    """

    def __init__(self, python: str, package: str, model: Path, settings: dict[str, int]) -> None:
        start = time.perf_counter()
        worker = Path(__file__).with_name("peer_worker.py")
        self._python = python
        self._process = start_process(
            [python, str(worker), package, str(model), json.dumps(settings)], subprocess.PIPE
        )
        self.name = f"{package} {self._answer()['version']} ({shown(package, settings)})"
        self.measure("prefill", WARM_UP_IDS)
        self.seconds_to_ready = time.perf_counter() - start
        self.measure("decode", WARM_UP_IDS)

    def measure(self, test: str, ids: list[int]) -> float:
        self._ask(test, ids)
        return float(self._answer()["seconds"])

    def logits(self, ids: list[int]) -> Logits:
        """After each of the ids, which are one batch in an empty context: (n, n_vocab)."""
        self._ask("logits", ids)
        values = np.frombuffer(b64decode(self._answer()["logits"]), np.float32)
        return values.reshape(len(ids), -1)

    def _ask(self, test: str, ids: list[int]) -> None:
        try:
            print(json.dumps({"test": test, "ids": ids}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise PeerError(f"{self._python} ended ({self._process.wait()})") from None

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"{self._python} ended ({self._process.wait()})")
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            raise PeerError(f"{self._python} is no Python: it said {line.strip()!r}") from None
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def start_process(command: list[str], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """A process whose output is read.

    Raises:
        PeerError: there is no such program, or it cannot run.
    """
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise PeerError(f"cannot run {command[0]}: {error.strerror}") from None


PEER_DEFAULTS = {
    "llama_cpp": {"n_batch": 512, "flash_attn": 0, "repack": 1, "kv_q8_0": 0, "kv_unified": 0},
    "ik_llama_cpp": {"n_batch": 512, "flash_attn": 1, "repack": 0, "kv_q8_0": 0, "fused_moe": 1},
}


def shown(package: str, settings: dict[str, int]) -> str:
    """The settings that tell peers of a package apart."""
    return ", ".join(f"{key} {settings[key]:d}" for key in PEER_DEFAULTS[package])


def at_least_one(text: str) -> int:
    """For argparse: a count."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return count


def peer_settings(package: str, text: str) -> dict[str, int]:
    """`n_batch=2048,repack=0` as a dict, with the package's defaults for what it leaves out.

    Raises:
        PeerError: the package has no such setting, or its value is no number.
    """
    settings = dict(PEER_DEFAULTS[package])
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in settings or not value.isdecimal():
            raise PeerError(f"--peer {part}: must be one of {', '.join(settings)}=NUMBER")
        settings[key] = int(value)
    return settings
