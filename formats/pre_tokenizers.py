"""What `tokenizer.ggml.pre` names: how byte-level BPE cuts a text before it merges.

GGUF files hold only the name. The patterns are those that the models' authors published with their
tokenizers; a test compares the ids with llama.cpp's.
"""

from __future__ import annotations

from dataclasses import dataclass

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SINGLE_DIGIT = r"\p{N}"

# Of Llama 3 and of Qwen 2, which differ in how many digits go together.
_CASELESS_SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SUFFIXES = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Of Mistral's Tekken: words are cut where their case changes.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How a text is cut into the words within which pieces are merged.

    Attributes:
        patterns: regular expressions. What one matches, and what is between, are words; the next
            cuts these further.
        ignores_merges: a word that is a token is taken as it is.
        adds_bos: a prompt begins with BOS, unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False


_LLAMA3_PATTERN = rf"{_SUFFIXES}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_LLAMA3 = PreTokenizer((_LLAMA3_PATTERN,), ignores_merges=True, adds_bos=True)
_SINGLE_DIGITS = PreTokenizer((SINGLE_DIGIT, GPT2_PATTERN))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": PreTokenizer((GPT2_PATTERN,)),
    "phi-2": PreTokenizer((GPT2_PATTERN,)),
    "olmo": PreTokenizer((GPT2_PATTERN,)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "smaug-bpe": PreTokenizer((_LLAMA3_PATTERN,)),
    "qwen2": PreTokenizer((rf"{_SUFFIXES}|{_WORDS}|\p{{N}}|{_REST}",)),
    "smollm": _SINGLE_DIGITS,
    "minerva-7b": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "command-r": _SINGLE_DIGITS,
    "tekken": PreTokenizer((_TEKKEN,), ignores_merges=True, adds_bos=True),
}


def expanded(pattern: str) -> str:
    """A published pattern as it is written here."""
    return pattern.replace(_CASELESS_SUFFIXES, _SUFFIXES)
