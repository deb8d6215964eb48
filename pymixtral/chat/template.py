"""What all chat templates have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pymixtral.chat.messages import Rules
from pymixtral.chat.turns import Turn
from pymixtral.errors import ChatError
from pymixtral.tokenizer import Tokenizer


class Template(ABC):
    """Writes turns as ids: each text is encoded on its own, and control tokens put between.

    So no text can become a control token, and each has the space in front that sentencepiece gives
    it. Rendering one string and encoding that gives other ids, and worse answers.

    Args:
        tokenizer: the model's.

    Attributes:
        rules: which conversations it can express.
        end_id: id that ends an answer.
        opener: ids that stand before an answer, after the question.

    Raises:
        ChatError: the vocabulary lacks a token that the template needs.
    """

    rules: ClassVar[Rules]
    end_id: int
    opener: Sequence[int] = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._encode = tokenizer.encode

    @abstractmethod
    def encode(self, turns: Sequence[Turn], tools: str = "") -> list[int]:
        """Ids of a conversation, without the opener of its next answer.

        Args:
            turns: a system prompt that a question is to carry comes first.
            tools: the JSON text of their definitions; needs a question.

        Raises:
            ChatError: the vocabulary lacks a token that the conversation needs.
            ParameterError: a text holds a lone surrogate.
        """

    def _control(self, token: str) -> int:
        token_id = self._tokenizer.control_id(token)
        if token_id is None:
            raise ChatError(
                f"the vocabulary has no control token {token}, which chat template "
                f"{self.rules.version} needs; choose another"
            )
        return token_id

    def _between(self, begin: str, text: str, end: str) -> list[int]:
        """A text between two control tokens."""
        return [self._control(begin), *self._encode(text), self._control(end)]


class MistralTemplate(Template):
    """A template in which `<s>` begins the conversation, and `</s>` ends each answer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        if tokenizer.bos_id is None or tokenizer.eos_id is None:
            raise ChatError(
                "the vocabulary lacks a bos or eos token, which chat template "
                f"{self.rules.version} needs"
            )
        self.bos_id = tokenizer.bos_id
        self.end_id = tokenizer.eos_id
