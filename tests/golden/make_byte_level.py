"""Writes golden/byte_level: merges of a small byte-level BPE vocabulary, and llama.cpp's ids.

    pip install tokenizers llama-cpp-python
    PYTHONPATH=tests python tests/golden/make_byte_level.py

`merges.json` is trained on the texts in tests/data. `ids.json` holds texts, and for each the ids
that llama.cpp gives it with this vocabulary: pairs of pre-tokenizers that agree, and the ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import llama_cpp
from byte_level_files import GOLDEN, byte_characters, write_byte_level_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS

DATA = Path(__file__).parents[1] / "data"
N_MERGES = 900

# llama.cpp's pattern of Tekken parts combining marks from their letters; Mistral's does not.
MISTRALS_OWN = {"tekken"}

TRICKY = [
    "",
    " ",
    "   ",
    "a  b   c    d",
    "\n",
    "line\n\n\nline \n  indented\t\ttabs\r\nwindows\r\n",
    "trailing spaces   ",
    "\u00a0no-break\u2003em space\u3000ideographic\u0085next line",
    "Hello Mixtral, it's 2026! HELLO, IT'S WE'LL I'D they've don't Don'T O'Neill",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 ½ ² Ⅷ ٣٤٥ १२३",
    "CamelCaseWords HTTPServer iPhone eBay McDonald ÀÉÎ straße ŁÓDŹ ǅ ǈ",
    "日本語のテキスト 中文文本 한국어 텍스트 ไทย العربية עברית हिन्दी",
    "e\u0301 n\u0303 combining\u0301 marks",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "</s> <s> [INST] is text [/INST] <|im_star",
    'def f(x):\n    return x**2 + 0x1F  # comment\n\n\tif x != y: print("a//b\\n")',
    "!!! ... ??? --- === $$$ @#%^&*()_+{}|:<>?[];',./`~",
    " leading",
    "\x00\x01\x02 control \x7f characters",
    "https://example.org/path?query=1&other=two#part",
]


def corpus() -> list[str]:
    lines = (DATA / "tokenizer" / "mixtral_v1_encode.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["text"] for line in lines.splitlines()]


def train_merges(texts: list[str]) -> list[str]:
    """Trained on uncut texts: merges lead over every edge that a pre-tokenizer may cut at, so that
    one that cuts elsewhere gives other ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + N_MERGES, initial_alphabet=byte_characters(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(merge) if isinstance(merge, list) else merge for merge in merges]


def llama_cpp_ids(path: Path, texts: list[str]) -> list[list[int]]:
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=False, special=False) for text in texts]


def main() -> None:
    texts = [*TRICKY, *(text for text in corpus()[::5] if len(text) < 600)]
    stories = (DATA / "tinystories_60k.txt").read_text(encoding="utf-8")
    merges = train_merges([*stories.splitlines(keepends=True), *corpus(), *TRICKY * 20])
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "merges.json").write_text(
        json.dumps(merges, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    ids: dict[str, list[list[int]]] = {}
    with TemporaryDirectory() as folder:
        for pre in [name for name in PRE_TOKENIZERS if name not in MISTRALS_OWN]:
            path = write_byte_level_model(Path(folder) / f"{pre}.gguf", pre, merges)
            ids[pre] = llama_cpp_ids(path, texts)
    lines = []
    for i, text in enumerate(texts):
        groups: dict[tuple[int, ...], list[str]] = {}
        for pre in ids:
            groups.setdefault(tuple(ids[pre][i]), []).append(pre)
        pairs = [[names, found] for found, names in groups.items()]
        lines.append(f"{json.dumps(text)}: {json.dumps(pairs, separators=(',', ':'))}")
    (GOLDEN / "ids.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
