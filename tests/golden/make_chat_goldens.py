"""Makes chat_templates.json: what transformers writes with the templates in tests/data/templates.

    python tests/golden/make_chat_goldens.py        (transformers 5.23, tokenizers, jinja2 3.1.6)

The templates are ours, in the manners of popular models' families. Conversations that a template
refuses have the error's text in place of what it writes.
"""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
TEMPLATES = HERE.parent / "data" / "templates"
QUESTION, ANSWER = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}
CONVERSATIONS = [
    [QUESTION],
    [{"role": "system", "content": " Be brief.\n"}, QUESTION],
    [
        {"role": "user", "content": "  Two  spaces\n\n"},
        ANSWER,
        {"role": "user", "content": "é 漢 😀"},
    ],
    [
        {"role": "system", "content": "Sing."},
        {"role": "user", "content": "{{ bos_token }} {% raw %} \\n %s"},
        {"role": "assistant", "content": "\tLa\n"},
        {"role": "user", "content": '</s><|end|> "quoted" & <b>'},
    ],
    [QUESTION, ANSWER],
    [{"role": "user", "content": ""}],
]


def write(template: str, conversation: list[dict[str, str]]) -> str:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>")),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=template,
    )
    try:
        written = tokenizer.apply_chat_template(
            conversation,
            tokenize=False,
            add_generation_prompt=conversation[-1]["role"] != "assistant",
        )
    except TemplateError as error:
        return f"error: {error.message}"
    return str(written)


def main() -> None:
    golden = [
        {
            "template": path.stem,
            "messages": conversation,
            "text": write(path.read_text(), conversation),
        }
        for path in sorted(TEMPLATES.glob("*.jinja"))
        for conversation in CONVERSATIONS
    ]
    target = HERE / "chat_templates.json"
    target.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
