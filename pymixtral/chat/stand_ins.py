"""Texts written in characters that are nobody's, so that a template's own can be told from them."""

from __future__ import annotations

import re

from pymixtral.errors import ChatError

PLANE_15 = 0xF0000  # private use: nobody's
OTHERS = range(0x100000, 0x10F000)
ANSWERS = range(0x10F000, 0x10FFFE)
ANSWER = re.compile(f"[{chr(ANSWERS[0])}-{chr(ANSWERS[-1])}]")


class StandIns:
    """Hides the characters of texts from a template, and shows them again in what it writes.

    A character of Unicode's plane 0 is hidden at its place in plane 15, others in plane 16 as they
    come; both planes are for private use. White space stays, so that a template can trim a text.
    Generated ids are hidden as a whole, in one character.
    """

    def __init__(self) -> None:
        self._hidden: dict[int, str] = {}  # character -> its stand-in
        self._shown: dict[int, str] = {}
        self._others = iter(OTHERS)
        self._answers: list[tuple[int, ...]] = []

    def hide(self, text: str) -> str:
        """The text in stand-ins.

        Raises:
            ChatError: there are too many different characters outside plane 0.
        """
        for character in set(text):
            self._hide(character)
        return text.translate(self._hidden)

    def hide_ids(self, ids: tuple[int, ...]) -> str:
        """One character for generated ids.

        Raises:
            ChatError: there are too many answers.
        """
        if len(self._answers) == len(ANSWERS):
            raise ChatError(f"more than {len(ANSWERS)} answers are too many; begin a new chat")
        self._answers.append(ids)
        return chr(ANSWERS[len(self._answers) - 1])

    def show(self, text: str) -> str:
        """A written text, with the characters that `hide` was given."""
        return text.translate(self._shown)

    def ids(self, stand_in: str) -> tuple[int, ...]:
        """The ids behind a character that `ANSWER` matches; none, if it is a template's own."""
        i = ord(stand_in) - ANSWERS[0]
        return self._answers[i] if i < len(self._answers) else ()

    def _hide(self, character: str) -> None:
        code = ord(character)
        if character.isspace() or code in self._hidden:
            return
        stand_in = PLANE_15 + code if code < 0x10000 else next(self._others, None)
        if stand_in is None:
            raise ChatError("the conversation has too many different characters")
        self._hidden[code] = chr(stand_in)
        self._shown[stand_in] = character
