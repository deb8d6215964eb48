"""`pymixtral run`, as a person or a script uses it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pymixtral import LLM, SamplingParams

PROMPT = "Tell me a story about a fox."
GREEDY = ("--temperature", 0, "--max-tokens", 12)


@pytest.fixture
def answer(llm: LLM) -> str:
    """The greedy answer to PROMPT."""
    params = SamplingParams(temperature=0, max_tokens=12)
    return llm.chat([{"role": "user", "content": PROMPT}], params).text


def test_answers_with_the_shipped_model(invoke, answer: str) -> None:
    result = invoke("run", PROMPT, *GREEDY)
    assert (result.exit_code, result.stdout) == (0, answer)  # no newline of its own, in a pipe


def test_answers_with_a_named_model(invoke, storyteller: Path, answer: str) -> None:
    assert invoke("run", storyteller, PROMPT, *GREEDY).stdout == answer


def test_tells_model_and_speed_on_stderr(invoke) -> None:
    result = invoke("run", PROMPT, *GREEDY)
    model, speed = result.stderr.splitlines()
    assert model.startswith("storyteller: 8.0 M parameters, 3.3 M active per token")
    rate = r"\d+(\.\d)? tokens/s"
    assert re.fullmatch(rf"prompt 15 tokens, {rate} · answer 12 tokens, {rate}", speed)


def test_quiet(invoke, answer: str) -> None:
    result = invoke("run", "-q", PROMPT, *GREEDY)
    assert (result.stdout, result.stderr) == (answer, "")


def test_raw_completes_the_text(invoke, llm: LLM) -> None:
    out = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=12))
    result = invoke("run", "--raw", "Once upon a time", *GREEDY)
    assert result.stdout == out.text
    assert out.text[0] == " " or not out.text[0].isalpha()  # the space that chat would strip


def test_raw_of_nothing_goes_on_from_bos(invoke, stories260k: Path) -> None:
    expected = json.loads((stories260k.parent / "greedy.json").read_text())
    result = invoke("run", "--raw", stories260k, "", "--temperature", 0, "--max-tokens", 256)
    assert result.stdout == expected["text"]


def test_json(invoke, llm: LLM, answer: str) -> None:
    document = json.loads(invoke("run", "--json", PROMPT, *GREEDY).stdout)
    assert document.keys() == {"text", "token_ids", "finish_reason", "usage"}
    assert document["text"] == answer
    assert llm.detokenize(document["token_ids"]) == " " + answer
    assert document["finish_reason"] == "length"
    usage = document["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (15, 12)


def test_reads_stdin_less_one_newline(invoke, answer: str) -> None:
    assert invoke("run", "-", *GREEDY, input=f"{PROMPT}\n").stdout == answer
    two = json.loads(invoke("run", "--json", "-", *GREEDY, input=f"{PROMPT}\n\n").stdout)
    assert two["usage"]["prompt_tokens"] == 16


def test_stdin_that_is_no_utf8(invoke) -> None:
    result = invoke("run", "-", input=b"ab\xff")
    assert result.exit_code == 1
    assert result.stderr == "error: stdin: is not UTF-8 at byte 2; convert it\n"


def test_lone_model_is_a_forgotten_prompt(invoke, tmp_path: Path, storyteller: Path) -> None:
    existing = tmp_path / "model"
    existing.write_text("anything")
    for argument in ("no-such-model.gguf", existing, storyteller):
        result = invoke("run", argument)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"pymixtral chat {argument}" in result.stderr
        assert result.stderr.count("\n") == 1


def test_prompt_without_quotes(invoke) -> None:
    result = invoke("run", "Tell", "me", "a", "story")
    assert result.exit_code == 2
    assert "put quotes around the prompt" in result.stderr


def test_seed(invoke) -> None:
    texts = [invoke("run", PROMPT, "--seed", seed).stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "filters", [("--top-k", 1), ("--top-p", 0), ("--min-p", 1)], ids=lambda pair: pair[0]
)
def test_filters_that_leave_the_likeliest(invoke, answer: str, filters: tuple[str, int]) -> None:
    options = ("--temperature", 5, "--max-tokens", 12, *filters)
    assert invoke("run", PROMPT, *options).stdout == answer


def test_load_options_reach_the_engine(invoke, answer: str) -> None:
    options = ("-t", 1, "--ctx", 64, "--tier", "generic", "--kv-type", "f32", "--no-mmap")
    result = invoke("run", PROMPT, *options, *GREEDY)
    assert "context 64, threads 1, tier generic\n" in result.stderr
    assert result.stdout.split()[:4] == answer.split()[:4]


def test_prompt_over_the_context(invoke) -> None:
    result = invoke("run", PROMPT, "--ctx", 10)
    assert result.exit_code == 1
    assert re.search(r"error: .* 15 tokens, .* context of 10 .*--ctx", result.stderr)


def test_answer_that_fills_the_context(invoke) -> None:
    result = invoke("run", "--json", PROMPT, "--ctx", 20, "--temperature", 0)
    document = json.loads(result.stdout)
    assert (document["finish_reason"], len(document["token_ids"])) == ("length", 5)
