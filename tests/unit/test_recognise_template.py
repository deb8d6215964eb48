"""Which chat template a file is recognised to have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reference import mistral

from pymixtral.chat import TEMPLATES, recognise_template
from pymixtral.formats import TokenType, Vocabulary

V1_TEXT = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
V2_TEXT = V1_TEXT + "[TOOL_RESULTS] [{{ m.name }}][/TOOL_RESULTS]"
V3_TEXT = V1_TEXT + '[TOOL_RESULTS] {"content": 1, "call_id": 2}[/TOOL_RESULTS]'
V7_TEXT = "[SYSTEM_PROMPT]{{ s }}[/SYSTEM_PROMPT]" + V3_TEXT
CHATML_TEXT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
LLAMA_2_TEXT = "[INST] <<SYS>>\n{{ s }}\n<</SYS>>\n\n{{ q }} [/INST]"
V11_TEXT = V7_TEXT + "[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}"

BY_TEXT = "recognised by the file's own template"
BY_VOCABULARY = "recognised by the vocabulary"
OTHER = "the file's own, run in a sandbox"


def vocabulary(version: str, text: str | None = None) -> Vocabulary:
    if version == "chatml":
        added = [(token, TokenType.USER_DEFINED) for token in ("<|im_end|>", "<|im_start|>")]
        return replace(mistral.with_tokens(mistral.vocabulary(), *added), chat_template=text)
    return replace(mistral.vocabulary(version), chat_template=text)


@pytest.mark.parametrize(
    ("tokens", "text", "name", "version", "reason"),
    [
        ("v1", V1_TEXT, "", "v1", BY_TEXT),
        ("v1", None, "Mixtral 8x7B Instruct v0.1", "v1", "recognised by the model's name"),
        ("v1", None, "mistral-7b", "v1", "recognised by the model's name"),
        ("v1", None, "tiny", "v1", "assumed; the file has none"),
        ("v1", LLAMA_2_TEXT, "Mixtral", "jinja", OTHER),
        ("v1", "{{ messages }}", "Mixtral", "jinja", OTHER),
        ("v1", "", "Mixtral", None, "the file's is empty"),
        (
            "v1",
            CHATML_TEXT,
            "",
            None,
            "the file's is ChatML, but its vocabulary lacks <|im_start|>",
        ),
        ("v3", V1_TEXT, "", "v3", BY_TEXT),
        ("v3", V3_TEXT, "", "v3", BY_TEXT),
        ("v3", V2_TEXT, "", "v2", BY_TEXT),
        ("v3", None, "Mixtral", "v3", BY_VOCABULARY),
        ("v2", None, "", "v3", BY_VOCABULARY),
        ("v7", None, "", "v7", BY_VOCABULARY),
        ("v7", V7_TEXT, "", "v7", BY_TEXT),
        ("v7", V3_TEXT, "", "v3", BY_TEXT),
        ("v7", V11_TEXT, "", "jinja", OTHER),
        ("chatml", CHATML_TEXT, "", "chatml", BY_TEXT),
        ("chatml", None, "dolphin-2.5-mixtral-8x7b", "chatml", BY_VOCABULARY),
        ("chatml", V1_TEXT, "", "v1", BY_TEXT),
    ],
)
def test_recognition(
    tokens: str, text: str | None, name: str, version: str | None, reason: str
) -> None:
    found = recognise_template(vocabulary(tokens, text), name)
    assert found == (version, reason)
    assert str(found) == f"{version or 'none'} ({reason})"
    assert version is None or version in TEMPLATES


def test_plain_text_in_a_vocabulary_is_no_control_token() -> None:
    tokens = ("[INST]", TokenType.NORMAL), ("<|im_start|>", TokenType.NORMAL)
    plain = mistral.with_tokens(mistral.vocabulary(), *tokens, ("<|im_end|>", TokenType.NORMAL))
    assert recognise_template(plain).version == "v1"


def test_other_vocabularies() -> None:
    llama_3 = replace(mistral.vocabulary(), model="gpt2")
    assert recognise_template(llama_3) == (None, "the file has none")
    smol = replace(vocabulary("chatml"), model="gpt2")
    assert recognise_template(smol).version == "chatml"
