"""`pymixtral run --file`: JSON lines in and out; and --stop, --logprobs, --logit-bias."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from pymixtral import LLM, SamplingParams
from pymixtral.engine import Engine

FOX, CAT = "Tell me a story about a fox.", "Tell me a story about a cat."
OPTIONS = ("--temperature", 1, "--seed", 5, "--max-tokens", 12)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def write(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def answers(result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_answers_are_those_of_each_alone_and_in_order(invoke, prompts: Path) -> None:
    lengths = (30, 2, 9, 1, 17)
    write(
        prompts,
        *({"prompt": FOX, "id": f"n{n}", "params": {"max_tokens": n, "seed": n}} for n in lengths),
    )
    result = invoke("run", "--file", prompts, "--parallel", 3, *OPTIONS)
    assert result.exit_code == 0
    lines = answers(result)
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["id"] for line in lines] == [f"n{n}" for n in lengths]
    for line, n in zip(lines, lengths, strict=True):
        options = ("--temperature", 1, "--seed", n, "--max-tokens", n)
        alone = json.loads(invoke("run", "--json", FOX, *options).stdout)
        assert (line["text"], line["token_ids"]) == (alone["text"], alone["token_ids"])
        assert line.keys() - {"line", "id"} == alone.keys()


def test_bad_lines_are_reported_and_the_rest_done(invoke, prompts: Path) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": CAT}], "id": 7}).encode()
    bad = {
        b"{": "is not JSON",
        b"\xff": "is not JSON",
        b"[" * 100_000: "is not JSON",
        b'{"prompt": NaN}': "NaN is no JSON number",
        b"[]": "is no JSON object",
        b"{}": "a prompt or messages",
        b'{"prompt": "a", "messages": []}': "a prompt or messages",
        b'{"prompt": 1}': "'prompt' must be a text",
        b'{"prompt": "a", "id": [1]}': "'id' must be a text or an integer",
        b'{"prompt": "a", "promt": 1}': "unknown key 'promt'",
        b'{"prompt": "a", "params": 1}': "'params' must be an object",
        b'{"prompt": "a", "params": {"n": 1}}': "unknown parameter 'n'",
        b'{"prompt": "a", "params": {"top_p": 2}}': "top_p must be a number from 0 to 1",
        b'{"prompt": "a", "params": {"logit_bias": {"x": 1}}}': "logit_bias",
        b'{"prompt": "a", "params": {"logit_bias": {"99999": 1}}}': "logit_bias",
        b'{"prompt": "a", "tools": [{"function": {"name": "f"}}]}': "chat template v1 has no tools",
        b'{"prompt": "\\ud800"}': "lone surrogate",
        b'{"messages": [{"role": "king"}]}': "role 'king' is unknown",
        json.dumps({"prompt": "fox " * 600}).encode(): "the context of 512",
    }
    prompts.write_bytes(b"\n".join([good, b"", *bad, good]))
    result = invoke("run", "--file", prompts, *OPTIONS)
    assert result.exit_code == 1
    first, *failed, last = answers(result)
    assert first["text"] == last["text"]
    assert (first["line"], first["id"], last["line"]) == (1, 7, len(bad) + 3)
    for line, error in zip(failed, bad.values(), strict=True):
        assert line.keys() <= {"line", "error"}
        assert error in line["error"]
    assert f"error: {len(bad)} of {len(bad) + 2} prompts failed" in result.stderr


def test_raw_reads_stdin_and_options_reach_every_line(invoke, llm: LLM) -> None:
    lines = b'{"prompt": "Once upon a time"}\n{"prompt": "The", "params": {"logprobs": null}}\n'
    options = ("--raw", "--logprobs", 1, "--stop", "the", "--temperature", 0, "--max-tokens", 20)
    result = invoke("run", "--file", "-", *options, input=lines)
    first, second = answers(result)
    params = SamplingParams(temperature=0, max_tokens=20, stop="the")
    assert first["text"] == llm.generate("Once upon a time", params).text
    assert second["text"] == llm.generate("The", params).text
    assert len(first["logprobs"]) == len(first["token_ids"])
    assert "logprobs" not in second


def test_an_empty_file(invoke, prompts: Path) -> None:
    prompts.write_bytes(b"\n \n")
    result = invoke("run", "--file", prompts)
    assert (result.exit_code, result.stdout) == (0, "")


def test_wrong_command_lines(invoke, prompts: Path) -> None:
    write(prompts, {"prompt": FOX})
    for arguments, error in (
        (("--file", prompts, "model.gguf", FOX), "--file brings the prompts"),
        (("--parallel", 2, FOX), "--parallel is for the prompts of --file"),
        (("--quiet", "--logprobs", 1, FOX), "--quiet would silence --logprobs"),
        (("--file", prompts.with_name("none")), "does not exist"),
        (("--file", prompts, "--parallel", 0), "not in the range"),
        ((FOX, "--logit-bias", "5"), "is no TOKEN=VALUE"),
        ((FOX, "--logit-bias", "5=nan"), "is no TOKEN=VALUE"),
        ((FOX, "--logit-bias", "5=101"), "is no TOKEN=VALUE"),
        ((FOX, "--stop", ""), "none of them empty"),
    ):
        result = invoke("run", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert error in result.stderr


def test_ctrl_c_prints_those_that_are_done(
    invoke, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = (50, 1, 50, 2)
    write(prompts, *({"prompt": FOX, "params": {"max_tokens": n}} for n in lengths))
    eval_each, n_calls = Engine.eval_each, 0

    def interrupted(*args: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 12:
            raise KeyboardInterrupt
        return eval_each(*args)

    monkeypatch.setattr(Engine, "eval_each", interrupted)
    result = invoke("run", "--file", prompts, *OPTIONS)
    assert result.exit_code == 130
    assert [line["line"] for line in answers(result)] == [2, 4]


def test_ctrl_c_ends_a_process(start, endless: Path, prompts: Path) -> None:
    write(
        prompts,
        {"prompt": "7", "params": {"max_tokens": 1}},
        *[{"prompt": "7", "params": {"max_tokens": 60_000}}] * 3,
    )
    process = start("run", "--raw", "--file", prompts, endless, "--ctx", 65536)
    assert json.loads(process.stdout.readline())["line"] == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stdout.read() == b""


# ---- Options of a single prompt ----


def test_logprobs(invoke, llm: LLM) -> None:
    options = ("--temperature", 0, "--max-tokens", 3, "--logprobs", 2)
    document = json.loads(invoke("run", "--json", FOX, *options).stdout)
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=2)
    expected = llm.chat([{"role": "user", "content": FOX}], params).logprobs
    assert expected is not None
    for entry, given in zip(document["logprobs"], expected, strict=True):
        assert (entry["token_id"], entry["logprob"]) == (given.token_id, given.logprob)
        assert entry["piece"] == llm.tokenizer.piece(given.token_id)
        assert [(top["token_id"], top["logprob"]) for top in entry["top"]] == given.top

    result = invoke("run", FOX, *options)
    assert "logprobs" not in result.stdout
    _, *lines, _ = result.stderr.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [llm.tokenizer.piece(given.token_id), f"{given.logprob:.2f}"] for given in expected
    ]


def test_stop(invoke) -> None:
    options = ("--temperature", 0, "--max-tokens", 30)
    whole = invoke("run", FOX, *options).stdout
    stopped = invoke("run", FOX, *options, "--stop", "no such", "--stop", whole[10:16]).stdout
    assert stopped == whole[: whole.index(whole[10:16])]


@pytest.mark.parametrize("token", ["▁Once", " Once", "{id}"])
def test_logit_bias(invoke, llm: LLM, token: str) -> None:
    once = next(i for i in range(llm.n_vocab) if llm.tokenizer.piece(i) == "▁Once")
    options = ("--json", FOX, "--temperature", 0, "--max-tokens", 5)
    assert json.loads(invoke("run", *options).stdout)["token_ids"][0] == once
    bias = ("--logit-bias", f"{token.format(id=once)}=-inf", "--logit-bias", "▁fox=100")
    ids = json.loads(invoke("run", *options, *bias).stdout)["token_ids"]
    assert [llm.tokenizer.piece(i) for i in ids] == ["▁fox"] * 5


@pytest.mark.parametrize("token", ["no such token", "99999", "9" * 5000])
def test_unknown_token(invoke, token: str) -> None:
    result = invoke("run", FOX, "--logit-bias", f"{token}=1")
    assert result.exit_code == 1
    assert "error: --logit-bias: " in result.stderr
