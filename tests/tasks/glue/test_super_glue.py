"""SuperGLUE's data sets, the whole way from each form on disk to scores."""

import pytest

from mpt_jax.data.tasks import task_vocabulary
from mpt_jax.tasks.super_glue import marked_spans, without_tags
from mpt_jax.tasks.super_glue_files import mended_span

from .super_glue_samples import SAMPLES

FORMS = ("folder", "tfds", "saved", "parquet")

CLEAN = 'Ann met Bob in "Rome". The city is old. Bob left'
MULTIRC = 'paragraph: Sent 1: Ann sings. Sent 2: Bob "drums". '
ENTITIES = f"entities: Ann, Bob, Rome passage: {CLEAN}"

# task -> split -> (attempt's inputs, attempt's targets, T5's inputs, T5's targets)
TEXTS = {
    "super_glue_multirc": {
        "train": [
            (f"superglue-multirc question: Who sings? answer: Ann {MULTIRC}", "1",
             f"multirc question: Who sings? answer: Ann {MULTIRC}", "True"),
            (f"superglue-multirc question: Who sings? answer: Bob {MULTIRC}", "0",
             f"multirc question: Who sings? answer: Bob {MULTIRC}", "False"),
            (f"superglue-multirc question: Who drums? answer: Bob  {MULTIRC}", "1",
             f"multirc question: Who drums? answer: Bob  {MULTIRC}", "True"),
        ],
    },
    "super_glue_boolq": {
        "train": [
            ('superglue-boolq question: is it so passage: It -- it is "so".', "1",
             'boolq passage: It -- it is "so". question: is it so', "True"),
        ],
        "validation": [
            ("superglue-boolq question: do cats bark passage: Cats mew.", "0",
             "boolq passage: Cats mew. question: do cats bark", "False"),
            ("superglue-boolq question: do dogs bark passage: Dogs bark.", "1",
             "boolq passage: Dogs bark. question: do dogs bark", "True"),
        ],
    },
    "super_glue_wic": {
        "validation": [
            ("superglue-wic sentence1: Approach a task. sentence2: To approach the city. word: approach", "0",
             "wic sentence1: Approach a task. sentence2: To approach the city. word: approach", "False"),
            ("superglue-wic sentence1: Hold the taxi. sentence2: Hold the horse. word: hold", "1",
             "wic sentence1: Hold the taxi. sentence2: Hold the horse. word: hold", "True"),
        ],
    },
    "super_glue_wsc": {
        "train": [
            ("superglue-wsc.fixed text: * Mark * told Pete lies about # himself, # which he read.", "0",
             "wsc text: * Mark * told Pete lies about # himself, # which he read.", "False"),
            ("superglue-wsc.fixed text: When # she # left, * the old lady * smiled.", "1",
             "wsc text: When # she # left, * the old lady * smiled.", "True"),
        ],
        "validation": [
            ("superglue-wsc.fixed text: * The trophy * # (it # was big) did not fit.", "1",
             "wsc text: * The trophy * # (it # was big) did not fit.", "True"),
            ("superglue-wsc.fixed text: * Ann * thanked Bob since # he # helped.", "0",
             "wsc text: * Ann * thanked Bob since # he # helped.", "False"),
        ],
    },
    "super_glue_cb": {
        "train": [
            ("superglue-cb premise: A: I think so. B: Uh-huh. hypothesis: it is so", "2",
             "cb hypothesis: it is so premise: A: I think so. B: Uh-huh.", "neutral"),
        ],
        "validation": [
            ("superglue-cb premise: Ann knew it. hypothesis: it was", "0",
             "cb hypothesis: it was premise: Ann knew it.", "entailment"),
            ("superglue-cb premise: Ann denied it. hypothesis: it was", "1",
             "cb hypothesis: it was premise: Ann denied it.", "contradiction"),
            ("superglue-cb premise: Ann asked. hypothesis: it was", "2",
             "cb hypothesis: it was premise: Ann asked.", "neutral"),
        ],
    },
    "super_glue_copa": {
        "validation": [
            ("superglue-copa premise: I ate. choice1: I slept. choice2: I was full.", "1",
             "copa choice1: I slept. choice2: I was full. premise: I ate. question: effect", "True"),
            ("superglue-copa premise: I ran. choice1: I was late. choice2: I sat.", "0",
             "copa choice1: I was late. choice2: I sat. premise: I ran. question: cause", "False"),
        ],
    },
    "super_glue_record": {
        "train": [
            (f"superglue-record record query: @placeholder was there. {ENTITIES}", "Ann",
             f"record query: @placeholder was there. {ENTITIES}", "Ann"),
            (f"superglue-record record query: @placeholder was there. {ENTITIES}", "Bob",
             f"record query: @placeholder was there. {ENTITIES}", "Bob"),
            (f"superglue-record record query: In @placeholder. {ENTITIES}", "Rome",
             f"record query: In @placeholder. {ENTITIES}", "Rome"),
        ],
    },
    "super_glue_rte": {
        "validation": [
            ("superglue-rte premise: No one came hypothesis: All came", "1",
             "rte hypothesis: All came premise: No one came", "not_entailment"),
            ("superglue-rte premise: Ann won hypothesis: Some won", "0",
             "rte hypothesis: Some won premise: Ann won", "entailment"),
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", SAMPLES)
def test_the_texts_of_every_split(task, form, put, register):
    tasks = register(task, source=put(task, SAMPLES[task], form))
    for split in SAMPLES[task]["records"]:
        texts = tasks.texts(task, split)
        if split in TEXTS[task]:
            assert texts == [row[:2] for row in TEXTS[task][split]]


@pytest.mark.parametrize("task", SAMPLES)
def test_t5s_texts(task, put, register):
    tasks = register(task, source=put(task, SAMPLES[task], "folder"), text_format="t5")
    for split, rows in TEXTS[task].items():
        assert tasks.texts(task, split) == [row[2:] for row in rows]


METRICS = {
    "super_glue_multirc": {"multirc_f1a", "multirc_em"},
    "super_glue_cb": {"accuracy", "f1_macro"},
    "super_glue_record": {"record_f1", "record_em"},
}


@pytest.mark.parametrize("text_format", ["attempt", "t5"])
@pytest.mark.parametrize("task", SAMPLES)
def test_scores(task, text_format, put, register):
    tasks = register(task, source=put(task, SAMPLES[task], "folder"), text_format=text_format)
    store, vocabulary = tasks.store(task, "validation"), task_vocabulary(task)
    rows = store.read(range(len(store)))
    assert [vocabulary.decode(row.inputs.tolist()) for row in rows] == [r.inputs_text for r in rows]
    right = [vocabulary.decode(row.targets.tolist()) for row in rows]
    perfect = tasks.score(task, "validation", right)
    assert set(perfect) == METRICS.get(task, {"accuracy"})
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0))
    wrong = tasks.score(task, "validation", ["what?"] * len(right))
    assert wrong == dict.fromkeys(wrong, 0.0)


def test_examples_of_one_question_belong_together(put, register):
    names = ("super_glue_multirc", "super_glue_record")
    for name in names:
        put(name, SAMPLES[name], "folder")
    tasks = register(*names)
    assert tasks.extras("super_glue_multirc", "train", "group") == ["0-0", "0-0", "0-1"]
    assert tasks.score("super_glue_multirc", "validation", ["1", "1", "1"])["multirc_em"] == 0.5
    assert tasks.extras("super_glue_record", "train", "group") == ["0-0", "0-0", "0-1"]
    assert tasks.extras("super_glue_record", "train", "answers")[0] == ["Ann", "Bob"]
    one_of_two_answers = tasks.score("super_glue_record", "validation", ["Rome", "Bob", "Bob"])
    assert one_of_two_answers["record_em"] == 0.5


@pytest.mark.parametrize(
    ("span", "index", "mended"),
    [
        ("trophy", 1, "trophy"),
        ("the trophy", 0, "The trophy"),
        ("Case.", 6, "case"),
        ("small\nCase", 5, "small Case"),
    ],
)
def test_spans_are_mended(span, index, mended):
    assert mended_span("The trophy is in the small case today", span, index) == mended


@pytest.mark.parametrize(
    ("text", "first", "second", "marked"),
    [
        ("Ann saw (her) twice.", ("Ann", 0), ("(her)", 2), "* Ann * saw # (her) # twice."),
        ("she saw Ann .", ("Ann", 2), ("she", 0), "# she # saw * Ann * ."),
        ("C++ beats it", ("C++", 0), ("it", 2), "* C++ * beats # it #"),
        ("Ann saw her", ("Eve", 0), ("her", 9), "Ann saw her"),
        (
            "the old man sat; he slept",
            ("the old man", 0),
            ("he", 4),
            "* the old man * sat; # he # slept",
        ),
    ],
)
def test_spans_are_marked(text, first, second, marked):
    spans = {
        "span1_text": first[0],
        "span1_index": first[1],
        "span2_text": second[0],
        "span2_index": second[1],
    }
    assert marked_spans({"text": text, **spans}) == marked


def test_tags_go():
    assert without_tags("a<br><b>b</b> < c <i>") == "a b < c <i>"
