"""Chat template v7: as v3, but system messages and results have tokens of their own.

    <s> [SYSTEM_PROMPT] enc("instructions") [/SYSTEM_PROMPT] [INST] enc("question") [/INST]
    enc("answer") [TOOL_CALLS] enc(calls) </s>
    [TOOL_RESULTS] enc("id of the call") [TOOL_CONTENT] enc("result") [/TOOL_RESULTS] ...

System messages stand where they are, an answer may have text before its calls, and results are
text as it is.

Source: mistral-common, `InstructTokenizerV7`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymixtral.chat.messages import Rules
from pymixtral.chat.turns import Result, System, Turn
from pymixtral.chat.v2_v3 import V3


class V7(V3):
    rules = Rules("v7", tools=True, call_ids=True, text_with_calls=True, system_turns=True)

    def _arranged(self, turns: Sequence[Turn]) -> list[Turn]:
        return list(turns)

    def _turn(self, turn: Turn) -> list[int]:
        if isinstance(turn, System):
            return self._between("[SYSTEM_PROMPT]", turn.text, "[/SYSTEM_PROMPT]")
        if isinstance(turn, Result):
            return [
                self._control("[TOOL_RESULTS]"),
                *self._encode(str(turn.call_id)),
                *self._between("[TOOL_CONTENT]", turn.text, "[/TOOL_RESULTS]"),
            ]
        return super()._turn(turn)
