"""Chat templates v3, that of Mixtral-8x22B-Instruct, and v2, which differs in how it shows tools.

    <s> [INST] enc("question") [/INST] enc("answer") </s>
    [AVAILABLE_TOOLS] enc(definitions) [/AVAILABLE_TOOLS]
    [INST] enc("system prompt, last question") [/INST] [TOOL_CALLS] enc(calls) </s>
    [TOOL_RESULTS] enc(result) [/TOOL_RESULTS] ...

The words in brackets are control tokens. Definitions, calls and results are JSON. The definitions
stand before the last question, and that carries the system prompt. Spaces at the end of an answer
are dropped.

Source: mistral-common, `InstructTokenizerV3` and `InstructTokenizerV2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from pymixtral.chat.messages import Rules
from pymixtral.chat.template import MistralTemplate
from pymixtral.chat.tools import CALLS_TOKEN, ToolCall, decoded, json_text
from pymixtral.chat.turns import Answer, Result, Turn, into_question, last_question


class V3(MistralTemplate):
    """Calls and results carry ids; each result stands alone."""

    rules = Rules("v3", tools=True, call_ids=True)

    def encode(self, turns: Sequence[Turn], tools: str = "") -> list[int]:
        turns = self._arranged(turns)
        last = last_question(turns)
        ids = [self.bos_id, *self._write(turns[:last])]
        if tools:
            ids += self._between("[AVAILABLE_TOOLS]", tools, "[/AVAILABLE_TOOLS]")
        return ids + self._write(turns[last:])

    def _arranged(self, turns: Sequence[Turn]) -> list[Turn]:
        return into_question(turns, -1)

    def _write(self, turns: Iterable[Turn]) -> list[int]:
        return [token_id for turn in turns for token_id in self._turn(turn)]

    def _turn(self, turn: Turn) -> list[int]:
        if isinstance(turn, Result):
            return self._results(self._result(turn))
        if isinstance(turn, Answer):
            return [*self._answer(turn), self.end_id]
        return self._between("[INST]", turn.text, "[/INST]")

    def _answer(self, turn: Answer) -> Sequence[int]:
        if turn.ids is not None:
            return turn.ids
        ids = self._encode(turn.text.rstrip(" "))
        if turn.calls:
            text = json_text("tool calls", [self._call(call) for call in turn.calls])
            ids += [self._control(CALLS_TOKEN), *self._encode(text)]
        return ids

    def _call(self, call: ToolCall) -> dict[str, Any]:
        return {"name": call.name, "arguments": call.arguments, "id": call.id}

    def _result(self, result: Result) -> dict[str, Any]:
        return {"content": decoded(result.text), "call_id": result.call_id}

    def _results(self, content: object) -> list[int]:
        text = json_text("tool result", content)
        return self._between("[TOOL_RESULTS]", text, "[/TOOL_RESULTS]")


class V2(V3):
    """There are no ids; the results of an answer's calls are one list, and say the tool's name.

    Calls and results before the last question are left out.
    """

    rules = Rules("v2", tools=True)

    def _arranged(self, turns: Sequence[Turn]) -> list[Turn]:
        turns = super()._arranged(turns)
        last = last_question(turns)
        return [turn for i, turn in enumerate(turns) if i >= last or not _is_about_tools(turn)]

    def _write(self, turns: Iterable[Turn]) -> list[int]:
        ids: list[int] = []
        for _, run in groupby(turns, type):
            alike = list(run)
            results = [self._result(turn) for turn in alike if isinstance(turn, Result)]
            ids += self._results(results) if results else super()._write(alike)
        return ids

    def _call(self, call: ToolCall) -> dict[str, Any]:
        return {"name": call.name, "arguments": call.arguments}

    def _result(self, result: Result) -> dict[str, Any]:
        return {"name": result.name, "content": decoded(result.text)}


def _is_about_tools(turn: Turn) -> bool:
    return isinstance(turn, Result) or (isinstance(turn, Answer) and bool(turn.calls))
