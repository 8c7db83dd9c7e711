import gzip
import json

import pytest

from mpt_jax.errors import UserError
from mpt_jax.tasks import mrqa

HEADER = {"header": {"dataset": "HotpotQA", "split": "dev"}}
LINES = [
    {
        "id": "",
        "context": "[PAR] [TLE] Emma [SEP] Emma is a novel.",
        "context_tokens": [["[PAR]", 0], ["[TLE]", 6]],
        "qas": [
            {
                "answers": ["a novel", "novel"],
                "question": "What is Emma?",
                "id": "5a8b",
                "qid": "2f3a",
                "question_tokens": [["What", 0]],
                "detected_answers": [
                    {"text": "a novel", "char_spans": [[31, 37]], "token_spans": [[6, 7]]}
                ],
            },
            {
                "answers": ["Emma"],
                "question": "Which novel?",
                "qid": "2f3b",
                "detected_answers": [],
            },
        ],
    },
    {
        "id": "",
        "context": "[DOC] Ulm, on the Danube.",
        "context_tokens": [],
        "qas": [{"answers": ["Danube"], "question": "Which river?", "qid": "2f3c"}],
    },
]


def packed(lines):
    return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


@pytest.mark.parametrize(
    ("task", "file", "prefix"),
    [
        ("mrqa_natural_questions", "NaturalQuestionsShort", "naturalquestions"),
        ("mrqa_natural_questions", "NaturalQuestions", "naturalquestions"),
        ("mrqa_hotpotqa", "HotpotQA", "hotpotqa"),
        ("mrqa_searchqa", "SearchQA", "searchqa"),
        ("mrqa_newsqa", "NewsQA", "newsqa"),
        ("mrqa_triviaqa", "TriviaQA-web", "triviaqa"),
        ("mrqa_squad", "SQuAD", "squad"),
    ],
)
def test_texts(write, register, task, file, prefix):
    write(f"mrqa/train/{file}.jsonl.gz", packed([HEADER, *LINES]))
    write(f"mrqa/dev/{file}.jsonl.gz", packed([HEADER, *LINES[1:]]))
    tasks = register(task)
    emma = "context: [ PAR ] [ TLE ] Emma [ SEP ] Emma is a novel ."
    ulm = "question: Which river ? context: [ DOC ] Ulm , on the Danube ."
    assert tasks.texts(task, "train") == [
        (f"{prefix} question: What is Emma ? {emma}", "a novel"),
        (f"{prefix} question: Which novel ? {emma}", "Emma"),
        (f"{prefix} {ulm}", "Danube"),
    ]
    assert tasks.texts(task, "validation") == [(f"{prefix} {ulm}", "Danube")]


def test_t5s_form_and_scores_against_all_answers(write, register):
    write("mrqa/dev/HotpotQA.jsonl.gz", packed([HEADER, *LINES]))
    tasks = register("mrqa_hotpotqa", text_format="t5")
    assert tasks.texts("mrqa_hotpotqa", "validation")[2] == (
        "question: Which river ? context: [ DOC ] Ulm , on the Danube .",
        "Danube",
    )
    scores = tasks.score("mrqa_hotpotqa", "validation", ["Novel", "Emma", "the river Danube"])
    assert scores == pytest.approx({"squad_f1": (1 + 1 + 2 / 3) / 3, "squad_em": 2 / 3})


def test_the_sets_of_the_paper_are_a_mixture(register, own_registries):
    register("mrqa")
    mixture = own_registries.MixtureRegistry.get("mrqa")
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == {
        "mrqa_natural_questions": 104_071,
        "mrqa_hotpotqa": 72_928,
        "mrqa_searchqa": 117_384,
        "mrqa_newsqa": 74_160,
    }
    assert {d.split_rule for d in mrqa.DATA_SETS} == {"held_out_train"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES, r"HotpotQA.jsonl.gz, line 1: there is no header"),
        ([HEADER, LINES[0], HEADER], r"line 3: the fields are 'header'; expected 'context'"),
        ([HEADER, {"context": "Ulm", "qas": {}}], r"line 2: the fields are 'context', 'qas'"),
        ([HEADER, {**LINES[1], "context": None}], r"line 2: .* expected 'context', a text"),
        ([HEADER, {**LINES[1], "qas": [{"qid": "1", "answers": []}]}], r"line 2: .* no answer"),
        ([HEADER, {**LINES[1], "qas": [{"qid": "1"}]}], r"line 2: the answers are None"),
        (
            [HEADER, {**LINES[1], "qas": [{"answers": ["a"], "question": "b"}]}],
            r"line 2: there is no field 'qid'",
        ),
        ([HEADER, LINES[0], ["a"]], r"line 3: a JSON list"),
        ([HEADER], r"no examples in split 'validation'"),
    ],
    ids=range(9),
)
def test_damaged_files_are_named_with_the_line(write, register, lines, message):
    write("mrqa/dev/HotpotQA.jsonl.gz", packed(lines))
    with pytest.raises(UserError, match=message):
        register("mrqa_hotpotqa").store("mrqa_hotpotqa", "validation")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            packed([HEADER, *LINES])[:-12],
            r"HotpotQA.jsonl.gz, line \d: the file cannot be unpacked",
        ),
        (json.dumps(HEADER).encode(), "line 1: the file cannot be unpacked .* no gzip file"),
        (packed([HEADER])[:-6] + b"broken", "line 2: the file cannot be unpacked"),
        (gzip.compress(b'{"header": {}}\n{"a": \n'), "line 2: not JSON"),
        (
            gzip.compress(b'{"header": {}}\n"\xe4"\n'),
            "line 2: byte 2 of the line, 0xe4, is not UTF-8",
        ),
    ],
    ids=["cut off", "not packed", "wrong checksum", "not JSON", "not UTF-8"],
)
def test_files_that_are_no_gzipped_json_lines(write, register, content, message):
    write("mrqa/dev/HotpotQA.jsonl.gz", content)
    with pytest.raises(UserError, match=message):
        register("mrqa_hotpotqa").store("mrqa_hotpotqa", "validation")


def test_where_the_files_were_looked_for(register, data_dir):
    with pytest.raises(
        UserError, match=r"mrqa/\(dev/NewsQA.jsonl.gz\|train/NewsQA.jsonl.gz\)"
    ) as error:
        register("mrqa_newsqa").store("mrqa_newsqa", "train")
    assert str(data_dir) in str(error.value)


def test_one_split_of_two_is_missing(write, register):
    write("mrqa/train/NewsQA.jsonl.gz", packed([HEADER, *LINES]))
    tasks = register("mrqa_newsqa")
    assert len(tasks.texts("mrqa_newsqa", "train")) == 3
    with pytest.raises(
        UserError, match=r"No file .*dev/NewsQA.jsonl.gz for the split 'validation'"
    ):
        tasks.store("mrqa_newsqa", "validation")
