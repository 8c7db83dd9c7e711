"""The tests' own seqio registries, and small vocabularies in the forms that people have them in.

Each of these tests registers tasks of its own; the registries are the process's, so they are put back.
"""

import base64
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).parent / "reference"
SENTINELS = {"t5": 100, "mt5": 0, "umt5": 300}  # above the pieces; mT5's lie inside the file
# The pipelines that transformers 4 and 5 write. umT5's is 4's under both: 5 makes none from a model
# file, and copies one.
FORMS = (
    ("t5", "saved by 5"),
    ("t5", "saved by 4"),
    ("mt5", "saved by 5"),
    ("mt5", "saved by 4"),
    ("umt5", "saved by 4"),
)


def sentencepiece_model(family: str) -> Any:
    """The proto of a small model that is made up as the family's is.

    The trained pieces are recorded, since training may differ between releases; the map of
    nmt_nfkc, a quarter of a megabyte, is taken from the installed library.
    """
    import sentencepiece

    pb2: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    proto = pb2.ModelProto.FromString((REFERENCE / "spiece_without_map.model").read_bytes())
    rules = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto()
    proto.normalizer_spec.precompiled_charsmap = pb2.ModelProto.FromString(
        rules
    ).normalizer_spec.precompiled_charsmap
    if family == "t5":
        return proto
    kinds = pb2.ModelProto.SentencePiece
    special, trained = list(proto.pieces[:3]), list(proto.pieces[3:])
    if family == "umt5":
        special.insert(2, kinds(piece="<s>", score=0.0, type=kinds.CONTROL))
        proto.trainer_spec.bos_id, proto.trainer_spec.unk_id = 2, 3
    del proto.pieces[:]
    proto.pieces.extend(special)
    for byte in range(256):
        proto.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=kinds.BYTE)
    proto.pieces.extend(trained)
    if family == "mt5":
        for i in reversed(range(100)):
            proto.pieces.add(piece=f"▁<extra_id_{i}>", score=0.0, type=kinds.USER_DEFINED)
    proto.trainer_spec.byte_fallback = True
    return proto


def tokenizer_json(family: str, form: str) -> dict[str, Any]:
    """What transformers writes for the family's model, as test_vocabulary_parity_live.py checks."""
    proto = sentencepiece_model(family)
    pieces = [[piece.piece, piece.score] for piece in proto.pieces]
    pieces += [[f"<extra_id_{i}>", 0.0] for i in reversed(range(SENTINELS[family]))]
    added = ("<pad>", "</s>", "<s>", "<unk>", "<extra_id_", "▁<extra_id_")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    character_map = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    mapped = {"type": "Precompiled", "precompiled_charsmap": character_map}
    scheme = "always" if form == "saved by 5" else "first"
    words = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    if form == "saved by 5":
        normalizer = mapped
        parts = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, words]}
    else:
        strip = {"type": "Strip", "strip_left": False, "strip_right": True}
        spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
        normalizer, parts = {"type": "Sequence", "normalizers": [mapped, strip, spaces]}, words
    text, end = [{"Sequence": {"id": i, "type_id": 0}} for i in "AB"], {"id": "</s>", "type_id": 0}
    ends = {"SpecialToken": end}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": piece, **flags, "special": not piece.startswith("▁")}
            for i, (piece, _) in enumerate(pieces)
            if piece.startswith(added)
        ],
        "normalizer": normalizer,
        "pre_tokenizer": parts,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text[0], ends],
            "pair": [text[0], ends, text[1], ends],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": words,
        "model": {
            "type": "Unigram",
            "unk_id": [text for text, _ in pieces].index("<unk>"),
            "vocab": pieces,
            "byte_fallback": False,
        },
    }


def write_model(folder: Path, family: str, name: str = "spiece.model") -> Path:
    """The family's SentencePiece file with the settings that lie beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(sentencepiece_model(family).SerializeToString())
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": SENTINELS[family]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_tokenizer_json(folder: Path, family: str, form: str) -> Path:
    """The same vocabulary as transformers saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(family, form)))
    settings = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings |= {"extra_ids": SENTINELS[family]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Callable[[str], Path]:
    """The folder with a family's spiece.model. For reading only."""
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        place = root / family
        return place if place.is_dir() else write_model(place, family)

    return folder


@pytest.fixture(scope="session")
def json_folder(tmp_path_factory) -> Callable[[str, str], Path]:
    """The folder with a family's tokenizer.json. For reading only."""
    root = tmp_path_factory.mktemp("tokenizers")

    def folder(family: str, form: str) -> Path:
        place = root / f"{family} {form}"
        return place if place.is_dir() else write_tokenizer_json(place, family, form)

    return folder


@pytest.fixture(autouse=True)
def own_registries():
    seqio = sys.modules.get("seqio")
    registries = (seqio.TaskRegistry, seqio.MixtureRegistry) if seqio else ()
    kept = [(registry, registry._REGISTRY) for registry in registries]
    for registry in registries:
        registry.reset()
    yield
    for registry, tasks in kept:
        registry._REGISTRY = tasks
