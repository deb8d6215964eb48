"""Chat template v1, that of Mixtral-8x7B-Instruct.

    <s> enc("[INST] question [/INST]") enc("answer") </s> enc("[INST] question [/INST]") ...

"[INST]" is plain text. The system prompt goes into the first question. There are no tools.

Source: mistral-common, `InstructTokenizerV1`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymixtral.chat.messages import Rules
from pymixtral.chat.template import MistralTemplate
from pymixtral.chat.turns import Answer, Question, Turn, into_question


class V1(MistralTemplate):
    rules = Rules("v1")

    def encode(self, turns: Sequence[Turn], tools: str = "") -> list[int]:
        ids = [self.bos_id]
        for turn in into_question(turns, 0):
            if isinstance(turn, Question):
                ids += self._encode(f"[INST] {turn.text} [/INST]")
            elif isinstance(turn, Answer):
                ids += self._encode(turn.text) if turn.ids is None else turn.ids
                ids.append(self.end_id)
        return ids
