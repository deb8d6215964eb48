"""Chat template ChatML, that of Mixtral fine-tunes such as Dolphin and Nous-Hermes.

    <|im_start|> enc("user\\nquestion") <|im_end|> enc("\\n")
    <|im_start|> enc("assistant\\nanswer") <|im_end|> enc("\\n") ...
    <|im_start|> enc("assistant\\n")

The two tokens are ones that the fine-tune added to its vocabulary. A BOS comes first where the
vocabulary asks for one. There is no agreed way to show tools.

Source: OpenAI's ChatML description; where texts are cut, and so where sentencepiece puts a space
in front, is at the added tokens, as in transformers and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymixtral.chat.messages import ROLES, Rules
from pymixtral.chat.template import Template
from pymixtral.chat.turns import Answer, Turn
from pymixtral.tokenizer import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"


class ChatML(Template):
    rules = Rules("chatml", system_turns=True, system_after_answer=True)

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._start_id, self.end_id = self._control(START), self._control(END)
        self._newline = self._encode("\n")
        self.opener = [*self._newline, self._start_id, *self._encode("assistant\n")]

    def encode(self, turns: Sequence[Turn], tools: str = "") -> list[int]:
        ids = self._encode("", add_bos=self._tokenizer.add_bos)
        for i, turn in enumerate(turns):
            if i:
                ids += self._newline
            ids += [self._start_id, *self._block(turn), self.end_id]
        return ids

    def _block(self, turn: Turn) -> list[int]:
        if isinstance(turn, Answer) and turn.ids is not None:
            return [*self._encode("assistant\n"), *turn.ids]
        return self._encode(f"{ROLES[type(turn)]}\n{turn.text}")
