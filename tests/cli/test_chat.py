"""`pymixtral chat`, through a pipe and at a pseudo-terminal."""

from __future__ import annotations

import os
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


# ---- Questions of several lines ----


@pytest.mark.parametrize(
    "lines",
    [
        ('"""', QUESTION, "/undo", SECOND, '"""'),
        (f'"""{QUESTION}', "/undo", f'{SECOND}"""  '),
        (f"{QUESTION}\\", "/undo\\", SECOND),
    ],
    ids=["quotes", "quotes beside text", "backslashes"],
)
def test_question_of_several_lines(invoke, llm: LLM, lines: tuple[str, ...]) -> None:
    question = f"{QUESTION}\n/undo\n{SECOND}"
    assert ask(invoke, *lines, SECOND).stdout == expected_answers(llm, [question, SECOND])


def test_quoted_question_may_begin_with_a_slash(invoke, llm: LLM) -> None:
    assert ask(invoke, '"""/help"""').stdout == expected_answers(llm, ["/help"])


def test_question_without_an_end(invoke) -> None:
    result = ask(invoke, '"""', QUESTION)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: the input ends within a question of several lines" in result.stderr


# ---- Another try ----


def test_undo(invoke, llm: LLM) -> None:
    result = ask(invoke, QUESTION, SECOND, "/undo", SECOND, "/undo", "/undo", SECOND)
    with_context = expected_answers(llm, [QUESTION, SECOND])
    first, *_ = with_context.splitlines(keepends=True)
    assert result.stdout == (
        with_context + with_context.removeprefix(first) + expected_answers(llm, [SECOND])
    )
    assert f"(took back: {SECOND})" in result.stderr


def test_regen_draws_on(invoke) -> None:
    """Another answer, and then the one that would have come after it."""
    options = ("--temperature", 1, "--max-tokens", 20, "--seed", 3)
    first, second, third = (
        invoke("chat", *options, input=f"{QUESTION}\n" + "/regen\n" * n).stdout for n in range(3)
    )
    assert third.startswith(second)
    assert second.startswith(first)
    answers = {first, second.removeprefix(first), third.removeprefix(second)}
    assert len(answers) == 3
    assert ask(invoke, QUESTION, "/regen").stdout == 2 * ask(invoke, QUESTION).stdout


@pytest.mark.parametrize("command", ["/undo", "/regen"])
def test_nothing_to_take_back(invoke, command: str) -> None:
    result = ask(invoke, command)
    assert result.exit_code == 1
    assert result.stderr.endswith("error: there is no answered question to take back\n")


def test_stop_and_logit_bias(invoke, llm: LLM) -> None:
    answer = expected_answers(llm, [QUESTION]).strip()
    stop = answer[10:15]
    result = ask(invoke, QUESTION, options=("--max-tokens", 20, "--stop", stop))
    assert result.stdout.strip() == answer[: answer.index(stop)].strip()
    banned = ask(invoke, QUESTION, options=("--max-tokens", 1, "--logit-bias", "▁Once=-inf"))
    assert answer.startswith("Once")
    assert not banned.stdout.startswith("Once")


# ---- Saved ----


def test_save_and_load(invoke, llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    saved = ask(invoke, "/system Be brief.", QUESTION, f"/save {path}", SECOND)
    assert f"(saved 1 turn to {path})" in saved.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = ask(invoke, f"/load {path}", SECOND)
    assert f"(loaded 1 turn from {path})" in loaded.stderr
    assert saved.stdout.endswith(loaded.stdout)
    assert len(loaded.stdout) > 20


def test_a_loaded_chat_draws_on(invoke, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    options = ("--temperature", 1, "--max-tokens", 20)
    saved = invoke("chat", *options, "--seed", 3, input=f"{QUESTION}\n/save {path}\n/regen\n")
    loaded = invoke("chat", *options, "--seed", 4, input=f"/load {path}\n/regen\n")
    assert saved.stdout.endswith(loaded.stdout)
    assert len(loaded.stdout) > 20


def test_save_replaces_only_saved_chats(invoke, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("precious")
    result = ask(invoke, QUESTION, f"/save {path}")
    assert result.exit_code == 1
    assert result.stderr.endswith("exists and is no saved chat; choose another name\n")
    assert path.read_text() == "precious"
    path.unlink()
    assert ask(invoke, f"/save {path}", QUESTION, f"/save {path}").exit_code == 0
    assert ask(invoke, f"/load {path}").stderr.endswith(f"(loaded 1 turn from {path})\n")
    assert list(tmp_path.iterdir()) == [path]


def test_load_of_another_models_chat(invoke, tmp_path: Path, stories260k: Path) -> None:
    path = tmp_path / "chat.json"
    assert ask(invoke, QUESTION, f"/save {path}").exit_code == 0
    result = invoke("chat", stories260k, input=f"/load {path}\n")
    assert result.exit_code == 1
    assert "was saved with another model" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/save", "/save: name a file"),
        ("/load", "/load: name a file"),
        ("/load {}/none", "none: No such file or directory"),
        ("/save {}/none/chat.json", "No such file or directory"),
        ("/load {}", "is no regular file"),
    ],
)
def test_bad_file_names(invoke, tmp_path: Path, line: str, error: str) -> None:
    result = ask(invoke, line.format(tmp_path))
    assert result.exit_code == 1
    assert error in result.stderr.splitlines()[-1]


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


def test_regen_that_was_stopped_keeps_the_answer(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat.ask(QUESTION)
    chat.save(tmp_path / "before.json")
    with monkeypatch.context() as patch:
        patch.setattr(Timeline, "eval", Mock(side_effect=KeyboardInterrupt))
        chat.regenerate()
    chat.save(tmp_path / "after.json")
    before, after = ((tmp_path / f"{name}.json").read_text() for name in ("before", "after"))
    assert before == after


# ---- At a terminal ----

Spawn = Callable[..., "pexpect.spawn[str]"]
PROMPT = r"\x1b\[\?2004h> "  # readline asks the terminal to mark what is pasted


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The folder in which chats started by `spawn` keep their history."""
    return tmp_path / "state"


@pytest.fixture
def spawn(state: Path) -> Iterator[Spawn]:
    """`spawn(model)` starts a chat at a terminal of its own."""
    children = []

    def begin(*args: object) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "pymixtral", "chat", *map(str, args)],
            env=os.environ | {"XDG_STATE_HOME": str(state)},
            encoding="utf-8",
            codec_errors="replace",
            timeout=60,
            dimensions=(50, 500),
        )
        children.append(child)
        child.expect("Ctrl-D leaves")
        child.expect(PROMPT)
        return child

    yield begin
    for child in children:
        child.close(force=True)


def test_a_chat_at_a_terminal(spawn: Spawn, llm: LLM) -> None:
    child = spawn(*GREEDY, "--max-tokens", 20)
    child.sendline(QUESTION)
    child.expect_exact(expected_answers(llm, [QUESTION]).strip())
    child.expect(PROMPT)
    child.sendline("/reset")
    child.expect_exact("(a new conversation)")
    child.expect("> ")
    child.sendline(SECOND)
    child.expect_exact(expected_answers(llm, [SECOND]).strip())
    child.expect(PROMPT)
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
    child.expect(PROMPT)
    child.sendline("/reset")
    child.expect(PROMPT)
    child.send("\x1b[A\x1b[A\r")
    child.expect_exact(answer)


def test_too_long_a_question_does_not_end_the_chat(spawn: Spawn, llm: LLM) -> None:
    child = spawn(*GREEDY, "--max-tokens", 20, "--ctx", 60)
    child.sendline("fox " * 100)
    child.expect("error: the prompt has ")
    child.expect("> ")
    child.sendline(QUESTION)
    child.expect_exact(expected_answers(llm, [QUESTION]).strip())


def test_questions_of_earlier_chats_are_recalled(spawn: Spawn, state: Path) -> None:
    history = state / "pymixtral" / "chat_history"
    child = spawn(*GREEDY, "--max-tokens", 2)
    for line in (QUESTION, "/reset"):
        child.sendline(line)
        child.expect(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)
    assert history.read_text() == f"{QUESTION}\n/reset\n"
    assert history.stat().st_mode & 0o777 == 0o600

    child = spawn(*GREEDY, "--max-tokens", 2, "--no-history")
    child.send("\x1b[A\r")
    child.expect(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)
    assert QUESTION not in child.before
    assert history.read_text() == f"{QUESTION}\n/reset\n"

    child = spawn(*GREEDY, "--max-tokens", 2)
    child.send("\x1b[A\x1b[A")
    child.expect_exact(QUESTION)


def test_a_pasted_text_of_several_lines_is_one_question(spawn: Spawn, llm: LLM) -> None:
    child = spawn(*GREEDY, "--max-tokens", 20)
    child.send(f"\x1b[200~{QUESTION}\n{SECOND}\n\x1b[201~\r")
    child.expect_exact(expected_answers(llm, [f"{QUESTION}\n{SECOND}"]).strip())
    child.expect(PROMPT)


def test_ctrl_c_and_ctrl_d_within_a_question_of_several_lines(spawn: Spawn, llm: LLM) -> None:
    child = spawn(*GREEDY, "--max-tokens", 20)
    child.sendline(f'"""{SECOND}')
    child.expect(r"\.\.\. ")
    child.sendintr()
    child.expect_exact("(Ctrl-D leaves)")
    child.expect(PROMPT)
    child.sendline("first \\")
    child.expect(r"\.\.\. ")
    child.sendeof()
    child.expect("error: the input ends within a question")
    child.expect(PROMPT)
    child.sendline(QUESTION)
    child.expect_exact(expected_answers(llm, [QUESTION]).strip())
    child.expect(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)
    assert child.wait() == 0
