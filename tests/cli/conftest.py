"""The command line in this process (quick), or in one of its own (signals, pipes, terminals)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from reference.tiny import TinyModel, random_weights
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM
from pymixtral.cli.main import program
from pymixtral.loader import shipped_model

DATA = Path(__file__).parents[1] / "data"

Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def invoke() -> Invoke:
    """`invoke("run", "Hello", input=...)` runs a command in this process."""

    def run(*args: object, **settings: object) -> Result:
        result = CliRunner().invoke(program, list(map(str, args)), **settings)
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def start() -> Iterator[Start]:
    """`start("run", "Hello")` starts a process, with pipes for stdin, stdout and stderr."""
    with ExitStack() as stack:

        def begin(*args: object) -> subprocess.Popen[bytes]:
            pipe = subprocess.PIPE
            command = [sys.executable, "-m", "pymixtral", *map(str, args)]
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


@pytest.fixture(scope="session")
def storyteller() -> Path:
    """The shipped model: a Mixtral with chat training, context 512."""
    return shipped_model()


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """A tiny dense model."""
    return DATA / "stories260K" / "stories260K-F32.gguf"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """What the commands should agree with."""
    with LLM() as llm:
        yield llm


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that never ends an answer, with room for prompts that take long to read.

    Its context is long and its weights are few, so that reading a prompt is mostly attention.
    """
    model = TinyModel(
        n_heads=8,
        n_kv_heads=2,
        head_dim=32,
        dim=256,
        ffn_dim=256,
        n_experts=0,
        n_experts_used=0,
        n_vocab=300,
        n_ctx_train=65536,
    )
    weights = random_weights(model)
    weights["output.weight"][2] = np.float32(0)  # EOS: its logit is 0, far below the largest
    return write_tiny_gguf(tmp_path_factory.mktemp("endless") / "endless.gguf", model, weights)
