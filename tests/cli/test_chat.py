"""`pymixtral chat`, through a pipe and at a pseudo-terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pexpect
import pytest

from pymixtral import LLM, CompletionStream, SamplingParams
from pymixtral.cli.chat import Chat
from pymixtral.cli.console import Console
from pymixtral.generate import Timeline

QUESTION = "Tell me a story about a fox."
SECOND = "Tell me a story about a cat."
GREEDY = ("--temperature", 0)


def expected_answers(llm: LLM, *conversations: list[str]) -> str:
    """What chat prints for these conversations, asked greedily."""
    params = SamplingParams(temperature=0, max_tokens=20)
    lines = []
    for questions in conversations:
        messages = []
        for question in questions:
            messages.append({"role": "user", "content": question})
            text = llm.chat(messages, params).text
            messages.append({"role": "assistant", "content": text})
            lines.append(text + "\n")
    return "".join(lines)


def ask(invoke, *lines: str, options: tuple[object, ...] = ("--max-tokens", 20)):
    return invoke("chat", *GREEDY, *options, input="\n".join(lines) + "\n")


# ---- Through a pipe ----


def test_conversation(invoke, llm: LLM) -> None:
    result = ask(invoke, QUESTION, "", SECOND)
    assert (result.exit_code, result.stdout) == (0, expected_answers(llm, [QUESTION, SECOND]))


def test_reset_forgets(invoke, llm: LLM) -> None:
    result = ask(invoke, QUESTION, "/reset", SECOND)
    assert result.stdout == expected_answers(llm, [QUESTION], [SECOND])
    assert "(a new conversation)" in result.stderr


def test_system_prompt_goes_before_the_first_question(invoke, llm: LLM) -> None:
    lines = ("/system Be brief.", QUESTION, "/reset", QUESTION, "/system", QUESTION)
    with_system = f"Be brief.\n\n{QUESTION}"
    assert ask(invoke, *lines).stdout == expected_answers(
        llm, [with_system], [with_system], [QUESTION]
    )


def test_exit_and_help(invoke, llm: LLM) -> None:
    result = ask(invoke, "/help", "/exit", QUESTION)
    assert (result.exit_code, result.stdout) == (0, "")
    assert all(word in result.stderr for word in ("/reset", "/system", "/exit", "Ctrl-C"))


def test_unknown_command_is_no_question(invoke) -> None:
    result = ask(invoke, "/rest")
    assert result.stdout == ""
    assert "error: /rest is no command; /help lists them\n" in result.stderr


def test_full_context_forgets_whole_turns(invoke) -> None:
    """Turns of some 33 tokens in a context of 100: the third question needs the first's room."""
    result = ask(
        invoke, QUESTION, SECOND, QUESTION, SECOND, options=("--ctx", 100, "--max-tokens", 20)
    )
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) >= 4
    assert "(the context of 100 tokens is full: forgot the oldest " in result.stderr
    quiet = ask(invoke, QUESTION, SECOND, options=("--ctx", 100, "--max-tokens", 20))
    assert "forgot" not in quiet.stderr


def test_answer_goes_on_after_forgetting(invoke) -> None:
    """A long answer that meets the end of the context is not cut there, once a turn can go."""
    alone = ask(invoke, QUESTION, options=("--ctx", 60))
    assert "(the context is full: the answer ends here)" in alone.stderr
    options = ("--ctx", 60, "--max-tokens", 42)
    result = ask(invoke, "Hello!", QUESTION, options=options)
    assert "forgot the oldest turn" in result.stderr
    assert result.exit_code == 0


def test_no_shift_fails(invoke) -> None:
    options = ("--ctx", 100, "--max-tokens", 20, "--no-shift")
    result = ask(invoke, QUESTION, SECOND, QUESTION, SECOND, options=options)
    assert result.exit_code == 1
    assert "error: the conversation fills the context of 100 tokens" in result.stderr


def test_question_longer_than_the_context_fails(invoke) -> None:
    result = ask(invoke, QUESTION * 20, options=("--ctx", 100))
    assert result.exit_code == 1
    assert re.search(r"error: the prompt has \d+ tokens, .* context of 100 ", result.stderr)


def test_a_long_question_makes_room_for_itself(invoke, llm: LLM) -> None:
    question = " ".join([QUESTION] * 20)
    n_ctx = len(llm.encode_chat([{"role": "user", "content": question}])) + 40
    result = ask(invoke, question, question, options=("--max-tokens", 5, "--ctx", n_ctx))
    assert result.exit_code == 0
    assert "forgot the oldest turn)" in result.stderr


# ---- Interrupted ----


@pytest.fixture
def asked(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Ids of the conversations that the model is asked to answer, as they come."""
    ids: list[list[int]] = []
    answer = llm.answer

    def recorded(chat_ids: list[int], *args: Any, **settings: Any) -> CompletionStream:
        ids.append(chat_ids)
        return answer(chat_ids, *args, **settings)

    monkeypatch.setattr(llm, "answer", recorded)
    return ids


@pytest.fixture
def chat(llm: LLM) -> Chat:
    return Chat(Console(), llm, SamplingParams(temperature=0, max_tokens=20), can_forget=True)


def test_stopped_answer_stays_in_the_conversation(
    chat: Chat, llm: LLM, asked: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def show(piece: str) -> None:
        shown.append(piece)
        if len(shown) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(chat._console, "answer", show)
    chat.ask(QUESTION)
    chat.ask(SECOND)
    first, second = asked
    partial = llm.tokenize("".join(shown[:5]))
    assert second[: len(first)] == first
    assert second[len(first) : len(first) + len(partial) + 1] == [*partial, llm.tokenizer.eos_id]


def test_question_whose_reading_was_stopped_is_taken_back(
    chat: Chat, asked: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Timeline, "eval", Mock(side_effect=KeyboardInterrupt))
        chat.ask(QUESTION)
    chat.ask(SECOND)
    chat.reset()
    chat.ask(SECOND)
    assert asked[1] == asked[2] != asked[0]


# ---- At a terminal ----

Spawn = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """`spawn(model)` starts a chat at a terminal of its own."""
    children = []

    def begin(*args: object) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "pymixtral", "chat", *map(str, args)],
            encoding="utf-8",
            codec_errors="replace",
            timeout=60,
            dimensions=(50, 500),
        )
        children.append(child)
        child.expect("Ctrl-D leaves")
        child.expect("> ")
        return child

    yield begin
    for child in children:
        child.close(force=True)


def test_a_chat_at_a_terminal(spawn: Spawn, llm: LLM) -> None:
    child = spawn(*GREEDY, "--max-tokens", 20)
    child.sendline(QUESTION)
    child.expect_exact(expected_answers(llm, [QUESTION]).strip())
    child.expect("\r\n> ")
    child.sendline("/reset")
    child.expect_exact("(a new conversation)")
    child.expect("> ")
    child.sendline(SECOND)
    child.expect_exact(expected_answers(llm, [SECOND]).strip())
    child.expect("\r\n> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    assert child.wait() == 0


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(spawn: Spawn, endless: Path) -> None:
    child = spawn(endless, *GREEDY)
    child.sendline("7")
    child.expect("(?s)7\r\n.{200}")  # it streams: the answer itself would fill the context
    assert not set(child.after) & set("\x00\x07\x08")  # which this model does generate
    child.sendintr()
    child.expect_exact("(stopped)")
    child.expect("> ")
    child.sendintr()  # at the prompt it only clears the line
    child.expect_exact("(Ctrl-D leaves)")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    assert child.wait() == 0


def test_arrow_up_recalls_a_question(spawn: Spawn, llm: LLM) -> None:
    child = spawn(*GREEDY, "--max-tokens", 20)
    answer = expected_answers(llm, [QUESTION]).strip()
    child.sendline(QUESTION)
    child.expect_exact(answer)
    child.expect("\r\n> ")
    child.sendline("/reset")
    child.expect("\r\n> ")
    child.send("\x1b[A\x1b[A\r")
    child.expect_exact(answer)


def test_too_long_a_question_does_not_end_the_chat(spawn: Spawn, llm: LLM) -> None:
    child = spawn(*GREEDY, "--max-tokens", 20, "--ctx", 60)
    child.sendline("fox " * 100)
    child.expect("error: the prompt has ")
    child.expect("> ")
    child.sendline(QUESTION)
    child.expect_exact(expected_answers(llm, [QUESTION]).strip())
