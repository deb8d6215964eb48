"""The vocabulary of a checkpoint's folder: its tokenizer, and the tokens added to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .byte_level_json import ByteLevelModel, is_byte_level, read_byte_level
from .errors import FormatError
from .hf_config import CONFIG_NAME, read_special_id
from .safetensors import read_json_file
from .sentencepiece_model import SentencePieceModel, read_sentencepiece_model
from .sentencepiece_proto import BPE
from .tokenizer_json import TOKENIZER_JSON, added_type, read_tokenizer_json
from .vocabulary import BYTE_LEVEL, SENTENCEPIECE, TokenType, Vocabulary

# In the order of preference, where several have the vocabulary's size.
MODEL_NAMES = (
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer.model.v2",
    "tokenizer.model.v1",
)
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 1 << 20
MAX_JSON_BYTES = 64 << 20

# Tokens outside sentencepiece's own list are never merged into: any low score will do.
_ADDED_SCORE = -1000.0


def read_hf_vocabulary(folder: Path, n_vocab: int) -> tuple[Vocabulary, list[str]]:
    """Read the vocabulary, filled up to `n_vocab` tokens. Returns what was assumed, too.

    Ids without a token (an embedding that was padded) become unused tokens.

    Raises:
        FormatError: a file is malformed, or asks for something that we do not do to text.
        OSError: a file cannot be read.
    """
    path, model = _read_tokenizer(folder, n_vocab)
    tokens, types, warnings = _completed(path, model, n_vocab)
    if isinstance(model, ByteLevelModel):
        vocabulary = _byte_level_vocabulary(path, model, tokens, types)
        return vocabulary, [*model.warnings, *warnings]
    return _sentencepiece_vocabulary(path, model, tokens, types), warnings


def _completed(
    path: Path, model: SentencePieceModel | ByteLevelModel, n_vocab: int
) -> tuple[list[str], list[TokenType], list[str]]:
    """All tokens and their types, with those that the folder adds; and what was assumed."""
    tokens, types = list(model.pieces), list(model.types)
    if len(tokens) > n_vocab:
        raise FormatError(path, "pieces", f"there are {len(tokens)}, the model knows {n_vocab}")
    added = _read_added_tokens(path.parent, n_vocab)
    warnings = []
    if len(tokens) + len(set(added) - set(range(len(tokens)))) < n_vocab:
        warnings.append(
            f"{path.name}: {len(tokens)} pieces for a vocabulary of {n_vocab}; those without a "
            "token become unused ones"
        )
    for i in range(len(tokens), n_vocab):
        tokens.append(f"[PAD{i}]")
        types.append(TokenType.UNUSED)
    for i, (text, kind) in added.items():
        if i >= len(model.pieces):
            tokens[i], types[i] = text, kind
        elif tokens[i] != text:
            raise FormatError(path, f"pieces[{i}]", f"is {tokens[i]!r}, the folder says {text!r}")
    return tokens, types, warnings


def _sentencepiece_vocabulary(
    path: Path, model: SentencePieceModel, tokens: list[str], types: list[TokenType]
) -> Vocabulary:
    _check_supported(path, model)
    folder, n_vocab = path.parent, len(tokens)
    scores = [*model.scores, *[_ADDED_SCORE] * (n_vocab - len(model.scores))]
    return Vocabulary(
        model=SENTENCEPIECE,
        tokens=tokens,
        scores=np.array(scores, np.float32),
        types=np.array(types, np.int32),
        bos_id=_special_id(path, _configured(folder, "bos_token_id"), model.bos_id, n_vocab),
        eos_id=_special_id(path, _configured(folder, "eos_token_id"), model.eos_id, n_vocab),
        unk_id=_special_id(path, None, model.unk_id, n_vocab),
        add_bos=True,
        add_eos=False,
        add_space_prefix=model.add_dummy_prefix,
        chat_template=_read_chat_template(folder),
    )


def _byte_level_vocabulary(
    path: Path, model: ByteLevelModel, tokens: list[str], types: list[TokenType]
) -> Vocabulary:
    ids = {token: i for i, token in enumerate(tokens)}
    names = _read_optional(path.parent / TOKENIZER_CONFIG)

    def special_id(name: str, added: str | None) -> int | None:
        """From config.json, tokenizer_config.json, or what is put around a text."""
        default = ids.get(_text_of(names.get(f"{name}_token")) or added or "", -1)
        configured = _configured(path.parent, f"{name}_token_id")
        return _special_id(path, configured, default, len(tokens))

    bos_id, eos_id = special_id("bos", model.first), special_id("eos", model.last)
    return Vocabulary(
        model=BYTE_LEVEL,
        tokens=tokens,
        scores=np.zeros(len(tokens), np.float32),
        types=np.array(types, np.int32),
        bos_id=bos_id,
        eos_id=eos_id,
        unk_id=None,
        add_bos=bos_id is not None and ids.get(model.first or "") == bos_id,
        add_eos=eos_id is not None and ids.get(model.last or "") == eos_id,
        add_space_prefix=False,
        chat_template=_read_chat_template(path.parent),
        pre=model.pre,
        merges=model.merges,
    )


def _read_tokenizer(folder: Path, n_vocab: int) -> tuple[Path, SentencePieceModel | ByteLevelModel]:
    """The sentencepiece model whose size is the vocabulary's, or else the first that there is; or
    else the tokenizer.json."""
    paths = [folder / name for name in MODEL_NAMES if (folder / name).exists()]
    models = [(path, read_sentencepiece_model(path)) for path in paths]
    for path, model in models:
        if len(model.pieces) == n_vocab:
            return path, model
    if models:
        return models[0]
    path = folder / TOKENIZER_JSON
    if not path.exists():
        path = folder / MODEL_NAMES[0]
        raise FormatError(path, "file", f"is missing, and so is {TOKENIZER_JSON}")
    found = read_json_file(path, MAX_JSON_BYTES)
    if is_byte_level(found):
        return path, read_byte_level(path, found)
    return path, read_tokenizer_json(path)


def _configured(folder: Path, key: str) -> int | None:
    path = folder / CONFIG_NAME
    return read_special_id(path, key) if path.exists() else None


def _text_of(token: object) -> str | None:
    """Of a token in tokenizer_config.json: its text, or an object that describes it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _check_supported(path: Path, model: SentencePieceModel) -> None:
    """GGUF's sentencepiece vocabulary is BPE over text that nothing has normalised."""
    if model.model_type != BPE:
        raise FormatError(path, "model_type", f"is {model.model_type}, only BPE is supported")
    if model.has_charsmap:
        raise FormatError(path, "precompiled_charsmap", "only the identity is supported")
    if model.remove_extra_whitespaces:
        raise FormatError(path, "remove_extra_whitespaces", "is on, which is not supported")
    if not model.escape_whitespaces:
        raise FormatError(path, "escape_whitespaces", "is off, which is not supported")


def _special_id(path: Path, configured: int | None, default: int, n_vocab: int) -> int | None:
    """The id from config.json, or sentencepiece's, where a negative one means none."""
    found = default if configured is None else configured
    if found >= n_vocab:
        raise FormatError(path, "special token", f"id {found}, there are {n_vocab} tokens")
    return found if found >= 0 else None


def _read_added_tokens(folder: Path, n_vocab: int) -> dict[int, tuple[str, TokenType]]:
    """Id to text and type, from whichever of the three files that list them is there."""
    added: dict[int, tuple[str, TokenType]] = {}
    path = folder / "added_tokens.json"
    for text, i in _read_optional(path).items():
        added[_checked_id(path, i, n_vocab)] = (text, TokenType.USER_DEFINED)
    path = folder / TOKENIZER_JSON
    listed = _read_optional(path).get("added_tokens", [])
    for token in listed if isinstance(listed, list) else ():
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise FormatError(path, "added_tokens", "each must have a content")
        added[_checked_id(path, token.get("id"), n_vocab)] = (token["content"], added_type(token))
    path = folder / TOKENIZER_CONFIG
    decoder = _read_optional(path).get("added_tokens_decoder", {})
    for i, token in decoder.items() if isinstance(decoder, dict) else ():
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise FormatError(path, f"added_tokens_decoder.{i}", "must have a content")
        number = int(i) if i.isascii() and i.isdigit() and len(i) < 10 else None
        added[_checked_id(path, number, n_vocab)] = (token["content"], added_type(token))
    return added


def _checked_id(path: Path, found: object, n_vocab: int) -> int:
    if type(found) is not int or not 0 <= found < n_vocab:
        raise FormatError(path, "added token", f"id {found!r}, there are {n_vocab} tokens")
    return found


def _read_chat_template(folder: Path) -> str | None:
    """From chat_template.jinja, or from tokenizer_config.json: the template, or a list of them."""
    path = folder / TEMPLATE_NAME
    if path.exists():
        with open(path, "rb") as file:
            raw = file.read(MAX_TEMPLATE_BYTES + 1)
        if len(raw) > MAX_TEMPLATE_BYTES:
            raise FormatError(path, "file", f"is longer than {MAX_TEMPLATE_BYTES} bytes")
        return raw.decode("utf-8", "surrogateescape")
    found = _read_optional(folder / TOKENIZER_CONFIG).get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json_file(path, MAX_JSON_BYTES) if path.exists() else {}
