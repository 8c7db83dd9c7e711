"""Records the ids that transformers gives: `python record_vocabulary_reference.py`.

Needs the `parity` extra. Writes `reference/vocabulary_ids.json`, which test_tokenizer_json.py reads,
and is itself what test_vocabulary_parity_live.py compares with.
"""

import json
import tempfile
from pathlib import Path

from conftest import FORMS, REFERENCE, write_tokenizer_json
from transformers import AutoTokenizer, ByT5Tokenizer

TEXTS = [
    "", " ", "the cat", " the cat ", "a\tb\nc", "a  b   c", "\n\n", "a\r\nb", "prompts 12!",
    "don't “stop” — Größe", "naïve cafe\u0301", "ﬁ Ａ ① Ⅷ ㌢ ½ ﷺ", "\u3000a\u00a0b", "😀 a", "👩‍👩‍👧",
    "▁a", "a▁b", "▁▁a", "a\u200bb", "\u200b", "\x00a\x01", "\u2028a", "a\x85b", "a\x1cb", "\ufeffa",
    "東京は 大きい", "עברית", "xyzzy QQ", "<extra_id_0>", "the <extra_id_0> cat", "jel<extra_id_0>ly",
    "<extra_id_0><extra_id_1>", "the <extra_id_99>.", "<extra_id_100>", "a</s>b", "<pad>", "<unk>x",
    "  <extra_id_5>  b", "<s>a",
]  # fmt: skip


def tokenizer(folder: Path, family: str, form: str):
    """transformers' own reader of a tokenizer.json: 5's for T5, or the one that takes it as it is."""
    write_tokenizer_json(folder, family, form)
    model_type = "t5" if form == "saved by 5" else "umt5"
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return AutoTokenizer.from_pretrained(folder)


def record(read) -> list[list[int]]:
    return [read(text, add_special_tokens=False).input_ids for text in TEXTS]


if __name__ == "__main__":
    recorded = {"texts": TEXTS, "ByT5": record(ByT5Tokenizer())}
    with tempfile.TemporaryDirectory() as scratch:
        for family, form in FORMS:
            name = f"{family} {form}"
            recorded[name] = record(tokenizer(Path(scratch) / name, family, form))
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in recorded.items()]
    (REFERENCE / "vocabulary_ids.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
