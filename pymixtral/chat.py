"""Conversations to token ids, piece by piece.

Template v1 (Mixtral-8x7B-Instruct) is

    <s> enc("[INST] question [/INST]") enc("answer") </s> enc("[INST] question [/INST]") ...

where each enc(...) is encoded on its own and so gets its own leading space. Rendering one string
and encoding that gives other ids, and worse answers. "[INST]" is plain text in v1; `<s>` and
`</s>` are control tokens, which no message can contain.

The reference is mistral-common's `InstructTokenizerV1` behind its default request validator: the
same conversations are accepted, with equal ids.

    ====================================  =======================================================
    conversation                          what happens
    ====================================  =======================================================
    system messages                       joined with a blank line, put before the first question
    one role several times in a row       merged with a blank line, leaving empty texts out; a
                                          system message between two questions keeps them apart
    no question before the first answer,  an empty question is put first
    or none at all
    empty question                        encoded as it is: "[INST]  [/INST]"
    no messages, or the last is an        ChatError
    answer
    system message after an answer        ChatError
    empty answer                          ChatError
    another role, another kind of content ChatError
    ====================================  =======================================================

It is stricter in two points: tools are refused, where mistral-common's v1 drops them silently,
and so are keys other than role and content, `prefix` (continue this answer) included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pymixtral.errors import ChatError
from pymixtral.tokenizer import Tokenizer

BLANK_LINE = "\n\n"

Message = Mapping[str, Any]


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Any] | None = None,
    version: str | None = None,
) -> list[int]:
    """Ids of a conversation, ready for the model to answer.

    Args:
        tokenizer: the model's.
        messages: {"role": "system" | "user" | "assistant", "content": text}, in order. `content`
            is a str, or a list of {"type": "text", "text": str} that a blank line joins. An
            assistant message may carry "tool_calls" that is None or empty.
        tools: template v1 knows none, so None or empty.
        version: name of the template; None stands for "v1".

    Raises:
        ChatError: see the table above.
        ParameterError: a text holds a lone surrogate.
    """
    name = "v1" if version is None else version
    if name not in TEMPLATES:
        raise ChatError(f"chat template {name!r} does not exist; there is {', '.join(TEMPLATES)}")
    return TEMPLATES[name](tokenizer, messages, tools)


class Conversation:
    """A growing v1 chat that keeps the ids which the model generated.

    Encoding the text of an answer again can give other ids, and would throw a session's cache
    away. Here the ids before an addition are a prefix of those after it; only `retract_question`
    and `drop_oldest_turn` take ids away.

    Args:
        tokenizer: the model's.
        system: instructions, which stay in front when the oldest turn is dropped.

    Raises:
        ChatError: the vocabulary lacks `<s>` or `</s>`.
    """

    def __init__(self, tokenizer: Tokenizer, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._system = system
        self._bos_id, self._eos_id = _sequence_ids(tokenizer)
        self._turns: list[_Turn] = []

    @property
    def ids(self) -> list[int]:
        """Ids of the whole conversation, BOS first."""
        ids = [self._bos_id]
        for turn in self._turns:
            ids += turn.question_ids
            ids += turn.answer_ids or []
        return ids

    @property
    def n_turns(self) -> int:
        """Questions asked so far, answered or not."""
        return len(self._turns)

    def add_user(self, text: str) -> list[int]:
        """Ask, and return the ids of the question. (Of these and of the answer before, what the
        session has not seen yet is `conversation.ids[n_evaluated:]`.)

        Raises:
            ChatError: the question before has no answer.
        """
        if self._awaits_answer():
            raise ChatError("the question before has no answer; add one, or retract the question")
        system = None if self._turns else self._system
        question_ids = _question_ids(self._tokenizer, text, system)
        self._turns.append(_Turn(text, question_ids))
        return question_ids

    def add_answer_ids(self, ids: Iterable[int]) -> None:
        """Answer with generated ids; the closing `</s>` is added where it is missing.

        Raises:
            ChatError: no question awaits an answer.
        """
        if not self._awaits_answer():
            raise ChatError("no question awaits an answer; ask one first")
        answer_ids = list(ids)
        if answer_ids[-1:] != [self._eos_id]:
            answer_ids.append(self._eos_id)
        self._turns[-1].answer_ids = answer_ids

    def retract_question(self) -> None:
        """Take back the question that awaits an answer, as after an interrupted prefill.

        Raises:
            ChatError: no question awaits an answer.
        """
        if not self._awaits_answer():
            raise ChatError("no question awaits an answer; there is none to retract")
        self._turns.pop()

    def drop_oldest_turn(self) -> None:
        """Forget the oldest question with its answer, to make room in the context.

        Raises:
            ChatError: only one turn is left.
        """
        if len(self._turns) < 2:
            raise ChatError("only one turn is left, which alone is too long for the context")
        del self._turns[0]
        oldest = self._turns[0]
        oldest.question_ids = _question_ids(self._tokenizer, oldest.question, self._system)

    def _awaits_answer(self) -> bool:
        return bool(self._turns) and self._turns[-1].answer_ids is None


@dataclass(slots=True)
class _Turn:
    question: str
    question_ids: list[int]
    answer_ids: list[int] | None = None


def _encode_v1(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Any] | None
) -> list[int]:
    if tools:
        raise ChatError("chat template v1 has no tools; leave `tools` out")
    bos_id, eos_id = _sequence_ids(tokenizer)
    system, turns = _merge(_parse(messages))
    ids = [bos_id]
    for i, (role, text) in enumerate(turns):
        if role == "user":
            ids += _question_ids(tokenizer, text, system if i == 0 else None)
        else:
            ids += [*tokenizer.encode(text), eos_id]
    return ids


TEMPLATES = {"v1": _encode_v1}


def _question_ids(tokenizer: Tokenizer, text: str, system: str | None) -> list[int]:
    content = f"{system}{BLANK_LINE}{text}" if system else text
    return tokenizer.encode(f"[INST] {content} [/INST]")


def _sequence_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ChatError("the vocabulary lacks a bos or eos token, which chat template v1 needs")
    return tokenizer.bos_id, tokenizer.eos_id


_KEYS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
}

_Parsed = tuple[str, list[str]]  # role, texts


def _parse(messages: Sequence[Message]) -> list[_Parsed]:
    """Roles and texts of messages whose every one, and whose order, is allowed."""
    parsed = [_parse_message(f"message {i}", message) for i, message in enumerate(messages)]
    roles = [role for role, _ in parsed]
    if not roles:
        raise ChatError("messages: empty; give at least one")
    if roles[-1] == "assistant":
        raise ChatError(f"message {len(roles) - 1}: the last must be a question, not an answer")
    for i in range(1, len(roles)):
        if roles[i - 1 : i + 1] == ["assistant", "system"]:
            raise ChatError(f"message {i}: a system message cannot follow an assistant message")
    return parsed


def _parse_message(where: str, message: Message) -> _Parsed:
    if not isinstance(message, Mapping):
        raise ChatError(f"{where}: is a {type(message).__name__}; give a dict of role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _KEYS:
        raise ChatError(f"{where}: role {role!r} is unknown; use {', '.join(_KEYS)}")
    if unknown := message.keys() - _KEYS[role]:
        raise ChatError(f"{where}: unknown key {', '.join(sorted(map(repr, unknown)))}")
    if message.get("tool_calls"):
        raise ChatError(f"{where}: chat template v1 has no tools; leave 'tool_calls' out")
    texts = _texts(where, message.get("content"))
    if role == "assistant" and not texts:
        raise ChatError(f"{where}: an assistant message cannot be empty")
    return role, texts


def _texts(where: str, content: object) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    if not isinstance(content, list):
        raise ChatError(f"{where}: content must be a str or a list of text chunks")
    for chunk in content:
        is_text = isinstance(chunk, Mapping) and chunk.keys() == {"type", "text"}
        if not (is_text and chunk["type"] == "text" and isinstance(chunk["text"], str)):
            raise ChatError(
                f'{where}: each chunk of content must be {{"type": "text", "text": str}}'
            )
    return [chunk["text"] for chunk in content]


def _merge(parsed: Sequence[_Parsed]) -> tuple[str, list[tuple[str, str]]]:
    """The system prompt, and the (role, text) turns, of which the first is the user's."""
    system = BLANK_LINE.join(_joined(texts) for role, texts in parsed if role == "system" and texts)
    turns = [
        (role, _joined(text for _, texts in run for text in texts))
        for role, run in groupby(parsed, key=lambda message: message[0])
        if role != "system"
    ]
    if any(turn == ("assistant", "") for turn in turns):
        raise ChatError("messages: an assistant message cannot be empty")
    if not turns or turns[0][0] != "user":
        turns.insert(0, ("user", ""))
    return system, turns


def _joined(texts: Iterable[str]) -> str:
    return BLANK_LINE.join(text for text in texts if text)
