import json

import pytest

from mpt_jax.errors import UserError
from mpt_jax.tasks.punctuation import pad_punctuation

DOCUMENT = {
    "version": "1.1",
    "data": [
        {
            "title": "Emma",
            "paragraphs": [
                {
                    "context": 'Emma (1815) is a novel by Jane Austen. "Clever, and rich."',
                    "qas": [
                        {
                            "id": "56be",
                            "question": "Who wrote 'Emma'?",
                            "answers": [
                                {"answer_start": 26, "text": "Jane Austen"},
                                {"answer_start": 31, "text": "Austen"},
                                {"answer_start": 26, "text": "Jane Austen."},
                            ],
                        },
                        {
                            "id": "56bf",
                            "question": "When was it published?",
                            "answers": [{"answer_start": 6, "text": "1815"}],
                        },
                    ],
                }
            ],
        },
        {
            "title": "Ulm",
            "paragraphs": [
                {
                    "context": "Ulm lies on the Danube.",
                    "qas": [
                        {
                            "id": "56c0",
                            "question": "On which river does Ulm lie?",
                            "answers": [{"answer_start": 16, "text": "Danube"}],
                        }
                    ],
                }
            ],
        },
    ],
}


@pytest.fixture
def squad(write):
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        write(f"squad/{name}", json.dumps(DOCUMENT))


@pytest.mark.parametrize(("text_format", "prefix"), [("attempt", "squad "), ("t5", "")])
def test_texts(squad, register, text_format, prefix):
    tasks = register("squad", text_format=text_format)
    context = 'context: Emma ( 1815 ) is a novel by Jane Austen . " Clever , and rich . "'
    assert tasks.texts("squad", "train") == [
        (f"{prefix}question: Who wrote ' Emma ' ? {context}", "Jane Austen"),
        (f"{prefix}question: When was it published ? {context}", "1815"),
        (
            f"{prefix}question: On which river does Ulm lie ? context: Ulm lies on the Danube .",
            "Danube",
        ),
    ]
    assert tasks.extras("squad", "train", "answers")[0] == [
        "Jane Austen",
        "Austen",
        "Jane Austen .",
    ]


def test_the_best_of_all_right_answers_counts_and_a_question_counts_once(squad, register):
    tasks = register("squad")
    scores = tasks.score("squad", "validation", ["the Austen", "1815", "Rhine"])
    assert scores == pytest.approx({"squad_f1": 2 / 3, "squad_em": 2 / 3})
    scores = tasks.score("squad", "validation", ["by Jane Austen", "", "Danube"])
    assert scores == pytest.approx({"squad_f1": (4 / 5 + 0 + 1) / 3, "squad_em": 1 / 3})


def changed(**question):
    document = json.loads(json.dumps(DOCUMENT))
    document["data"][0]["paragraphs"][0]["qas"][1].update(question)
    return document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(changed(answers=[])), r"dev-v1.1.json, question 2: .* no answer"),
        (json.dumps(changed(answers=[{"text": " "}])), r"question 2: .* no answer"),
        (json.dumps(changed(answers=[{"text": 3}])), r"question 2: .* list of texts"),
        (json.dumps(changed(answers=["1815"])), "near question 2: there is no list 'answers'"),
        (json.dumps(changed(question=None)), r"question 2: 'question' is None; expected a text"),
        (json.dumps(changed(is_impossible=False)), r"question 2: this is SQuAD 2.0"),
        ('{"data": [\n  {"title": "Emma",\n }]}', r"dev-v1.1.json, line 3: not JSON"),
        ("[1, 2]", "there is no list 'data'"),
        ('{"data": [{"title": "Emma"}]}', "there is no list 'paragraphs'"),
        ("[" * 100_000, "nested too deep"),
        (b'{"data": "\xff"}', "byte 11 of the file is not UTF-8"),
    ],
    ids=range(11),
)
def test_damaged_files_are_named_with_the_place(write, register, content, message):
    write("squad/dev-v1.1.json", content)
    with pytest.raises(UserError, match=message):
        register("squad").store("squad", "validation")


def test_a_changed_file_gives_another_store(squad, write, register):
    tasks = register("squad")
    before = tasks.store("squad", "validation").manifest.source
    write("squad/dev-v1.1.json", json.dumps(changed(question="In which year?")))
    assert tasks.store("squad", "validation").manifest.source != before
    assert "In which year ?" in tasks.texts("squad", "validation")[1][0]


@pytest.mark.parametrize(
    ("text", "padded"),
    [
        ("", ""),
        ("  two\n\twords ", "two words"),
        ("a_b", "a_b"),
        ("don't", "don ' t"),
        ("naïve ½ x²", "naïve ½ x²"),
        ("nai\u0308ve", "nai\u0308ve"),
        ("€3.50", "€ 3 . 50"),
        ("[PAR] [TLE]", "[ PAR ] [ TLE ]"),
        ("愛。", "愛 。"),
    ],
)
def test_spaces_round_punctuation(text, padded):
    assert pad_punctuation(text) == padded
    assert pad_punctuation(padded) == padded
