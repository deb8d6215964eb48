"""Chat templates that are not ours: the Jinja template of the model's file.

The template sees every text in stand-ins (see `StandIns`), and so what it writes shows which
characters are its own. In these, and in these alone, control and added tokens are looked for; the
rest is encoded between them, texts as they are. A user's text is never looked at, and cannot become
a control token, nor help to spell one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from pymixtral.chat.messages import ROLES, Rules
from pymixtral.chat.render import ADVICE, render
from pymixtral.chat.stand_ins import ANSWER, StandIns
from pymixtral.chat.template import Template
from pymixtral.chat.turns import Answer, Question, Turn
from pymixtral.errors import ChatError
from pymixtral.tokenizer import Tokenizer


class JinjaTemplate(Template):
    rules = Rules("jinja", system_turns=True, system_after_answer=True)

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        if not tokenizer.chat_template:
            raise ChatError(f"the file has no chat template of its own; {ADVICE}")
        self._source = tokenizer.chat_template
        # White space is not hidden from the template, so a token with some could be spelled by it.
        spellings = [token for token in tokenizer.control_tokens if not re.search(r"\s", token)]
        longest_first = sorted(filter(None, spellings), key=len, reverse=True)
        self._cut = re.compile("|".join([*map(re.escape, longest_first), ANSWER.pattern]))

    @cached_property
    def end_id(self) -> int:  # type: ignore[override]
        """The first control token that the template writes after an answer, or else EOS."""
        answer = (-1,)  # no id of a vocabulary
        ids = self._encode_turns([Question("a"), Answer(ids=answer), Question("b")])
        after = ids[ids.index(-1) + 1 :] if -1 in ids else []
        ends = set(self._tokenizer.control_tokens.values()) - {self._tokenizer.bos_id}
        found = next((i for i in after if i in ends), self._tokenizer.eos_id)
        if found is None:
            raise ChatError(f"the file names no token that ends an answer; {ADVICE}")
        return found

    def encode(self, turns: Sequence[Turn], tools: str = "") -> list[int]:
        ids = self._encode_turns(turns)
        bos_id = self._tokenizer.bos_id
        if self._tokenizer.add_bos and bos_id is not None and ids[:1] != [bos_id]:
            return [bos_id, *ids]
        return ids

    def _encode_turns(self, turns: Sequence[Turn]) -> list[int]:
        stand_ins = StandIns()
        written = render(
            self._source,
            tuple((ROLES[type(turn)], _hidden(turn, stand_ins)) for turn in turns),
            add_generation_prompt=not any(isinstance(turn, Answer) for turn in turns[-1:]),
            bos_token=self._spelling(self._tokenizer.bos_id),
            eos_token=self._spelling(self._tokenizer.eos_id),
        )
        ids: list[int] = []
        position = 0
        for cut in self._cut.finditer(written):
            ids += self._text_ids(stand_ins.show(written[position : cut.start()]))
            control_id = self._tokenizer.control_id(cut[0])
            ids += stand_ins.ids(cut[0]) if control_id is None else [control_id]
            position = cut.end()
        return ids + self._text_ids(stand_ins.show(written[position:]))

    def _text_ids(self, text: str) -> list[int]:
        return self._encode(text) if text else []

    def _spelling(self, token_id: int | None) -> str:
        return "" if token_id is None else self._tokenizer.piece(token_id)


def _hidden(turn: Turn, stand_ins: StandIns) -> str:
    if isinstance(turn, Answer) and turn.ids is not None:
        return stand_ins.hide_ids(turn.ids)
    return stand_ins.hide(turn.text)
