"""A conversation that grows, turn by turn."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from pymixtral.chat.templates import make_template
from pymixtral.chat.turns import Answer, Question, System, Turn
from pymixtral.errors import ChatError
from pymixtral.tokenizer import Tokenizer


class Conversation:
    """A growing chat that keeps the ids which the model generated.

    Encoding the text of an answer again can give other ids, and would throw a session's cache
    away. Here the ids before an addition are a prefix of those after it; only `retract_question`,
    `drop_last_turn` and `drop_oldest_turn` take ids away. With a system prompt this does not hold
    for templates v2 and v3: each new question takes the prompt over from the question before, from
    which on the ids change. A file's own template may do as it likes.

    Args:
        tokenizer: the model's.
        system: instructions, which stay when the oldest turn is dropped.
        version: as in `encode_chat`.

    Raises:
        ChatError: the template does not exist, or the vocabulary lacks its tokens.
        ParameterError: `system` holds a lone surrogate.
    """

    def __init__(
        self, tokenizer: Tokenizer, system: str | None = None, version: str | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._template = make_template(tokenizer, version)
        tokenizer.encode(system or "")  # raises now, as in `add_user`
        self._system: list[Turn] = [System(system)] if system else []
        self._turns: list[Question | Answer] = []

    @property
    def ids(self) -> list[int]:
        """Ids of the whole conversation, ready for the model to answer the last question."""
        return self._encode(self._turns)

    @property
    def least_ids(self) -> list[int]:
        """What is left of `ids` when all turns but the last are dropped."""
        return self._encode(self._turns[-1 if self._awaits_answer() else -2 :])

    @property
    def n_turns(self) -> int:
        """Questions asked so far, answered or not."""
        return sum(isinstance(turn, Question) for turn in self._turns)

    @property
    def answered(self) -> list[tuple[str, tuple[int, ...]]]:
        """The questions that have an answer, with its ids."""
        return [
            (turn.text, answer.ids or ())
            for turn, answer in pairwise(self._turns)
            if isinstance(turn, Question) and isinstance(answer, Answer)
        ]

    def add_user(self, text: str) -> None:
        """Ask.

        Raises:
            ChatError: the question before has no answer.
            ParameterError: the text holds a lone surrogate.
        """
        if self._awaits_answer():
            raise ChatError("the question before has no answer; add one, or retract the question")
        self._tokenizer.encode(text)  # raises now, rather than when the ids are asked for
        self._turns.append(Question(text))

    def add_answer_ids(self, ids: Iterable[int]) -> None:
        """Answer with generated ids, with or without the one that ends an answer.

        Raises:
            ChatError: no question awaits an answer.
        """
        if not self._awaits_answer():
            raise ChatError("no question awaits an answer; ask one first")
        answer_ids = list(ids)
        if answer_ids[-1:] == [self._template.end_id]:
            answer_ids.pop()
        self._turns.append(Answer(ids=tuple(answer_ids)))

    def retract_question(self) -> None:
        """Take back the question that awaits an answer, as after an interrupted prefill.

        Raises:
            ChatError: no question awaits an answer.
        """
        if not self._awaits_answer():
            raise ChatError("no question awaits an answer; there is none to retract")
        self._turns.pop()

    def drop_last_turn(self) -> str:
        """Take back the last question that has an answer, with that answer; returns the question.

        Raises:
            ChatError: the last question has no answer, or there is none.
        """
        if not self._turns or self._awaits_answer():
            raise ChatError("there is no answered question to take back")
        question = self._turns[-2].text
        del self._turns[-2:]
        return question

    def drop_oldest_turn(self) -> None:
        """Forget the oldest question with its answer, to make room in the context.

        Raises:
            ChatError: only one turn is left.
        """
        if self.n_turns < 2:
            raise ChatError("only one turn is left, which alone is too long for the context")
        del self._turns[:2]

    def _awaits_answer(self) -> bool:
        return bool(self._turns) and isinstance(self._turns[-1], Question)

    def _encode(self, turns: list[Question | Answer]) -> list[int]:
        ids = self._template.encode([*self._system, *turns])
        return [*ids, *self._template.opener] if self._awaits_answer() else ids
