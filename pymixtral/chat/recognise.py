"""Which chat template a model was trained on, as far as its file tells."""

from __future__ import annotations

from typing import NamedTuple

from pymixtral.chat.chatml import END, START
from pymixtral.formats import TokenType, Vocabulary
from pymixtral.formats.vocabulary import SENTENCEPIECE

SPECIAL = {TokenType.CONTROL, TokenType.USER_DEFINED}

# Words of templates that have [INST] and are none of ours: Llama 2's, Mistral's from v11 on.
FOREIGN = ("<<SYS>>", "[ARGS]", "[THINK]")


class Recognition(NamedTuple):
    """What was recognised.

    Attributes:
        version: a key of `TEMPLATES`, "jinja" where the file's template is none that we know; None
            where there is none to use.
        reason: what tells so.
    """

    version: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.version or 'none'} ({self.reason})"


def recognise_template(vocabulary: Vocabulary, name: str = "") -> Recognition:
    """The chat template of a model; docs/chat.md has the rules as a table.

    Args:
        vocabulary: with the Jinja template of the file, if it has one. That is not run: the tokens
            which it writes tell what it is.
        name: of the model (`general.name`).
    """
    special = {
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types.tolist(), strict=True)
        if kind in SPECIAL
    }
    if vocabulary.chat_template is not None:
        return _by_text(vocabulary.chat_template, special)
    if "[INST]" in special:
        return Recognition(_mistral_version(special, ""), "recognised by the vocabulary")
    if {START, END} <= special:
        return Recognition("chatml", "recognised by the vocabulary")
    if any(word in name.lower() for word in ("mistral", "mixtral")):
        return Recognition("v1", "recognised by the model's name")
    if vocabulary.model == SENTENCEPIECE:
        return Recognition("v1", "assumed; the file has none")
    return Recognition(None, "the file has none")


def _by_text(text: str, special: set[str]) -> Recognition:
    if START in text:
        if {START, END} <= special:
            return Recognition("chatml", "recognised by the file's own template")
        return Recognition(None, f"the file's is ChatML, but its vocabulary lacks {START}")
    if not text.strip():
        return Recognition(None, "the file's is empty")
    if "[INST]" not in text or any(word in text for word in FOREIGN):
        return Recognition("jinja", "the file's own, run in a sandbox")
    version = _mistral_version(special, text) if "[INST]" in special else "v1"
    return Recognition(version, "recognised by the file's own template")


def _mistral_version(special: set[str], text: str) -> str:
    """v2, v3 or v7, of a vocabulary with control tokens.

    v2 and v3 have the same tokens, and differ only where tools are used: v3's results have call
    ids. No open model is of v2, so without such results it is v3.
    """
    if "[SYSTEM_PROMPT]" in special and (not text or "[SYSTEM_PROMPT]" in text):
        return "v7"
    return "v2" if "[TOOL_RESULTS]" in text and "call_id" not in text else "v3"
