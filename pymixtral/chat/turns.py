"""The turns of a conversation, as a template writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pymixtral.chat.tools import ToolCall

BLANK_LINE = "\n\n"


@dataclass(frozen=True, slots=True)
class System:
    """Instructions."""

    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """What the user says."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said: text, calls, or generated ids that stand for both."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave, with the call's id and the tool's name."""

    text: str
    call_id: str | None = None
    name: str | None = None


Turn = System | Question | Answer | Result


def into_question(turns: Sequence[Turn], which: int) -> list[Turn]:
    """The turns with the system prompt, if one comes first, put into a question.

    Args:
        which: 0 for the first question, -1 for the last.
    """
    if not turns or not isinstance(turns[0], System):
        return list(turns)
    system, *rest = turns
    questions = [(i, turn) for i, turn in enumerate(rest) if isinstance(turn, Question)]
    if questions and system.text:
        i, question = questions[which]
        rest[i] = Question(f"{system.text}{BLANK_LINE}{question.text}")
    return rest


def last_question(turns: Sequence[Turn]) -> int:
    """Index of the last question; 0 where there is none."""
    return max((i for i, turn in enumerate(turns) if isinstance(turn, Question)), default=0)
