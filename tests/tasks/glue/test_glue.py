"""GLUE's data sets, the whole way from each form on disk to scores."""

import pytest

from mpt_jax.data.tasks import task_vocabulary
from mpt_jax.tasks.glue import similarity_score, similarity_step

FORMS = ("folder", "tfds", "saved", "parquet")


def lines(*rows):
    return "".join("\t".join(row) + "\n" for row in rows)


def labelled(rows, *keys):
    """Records in TFDS's schema."""
    names = (*keys, "label")
    return [{**dict(zip(names, row, strict=True)), "idx": n} for n, row in enumerate(rows)]


MNLI = {
    "validation_matched": [
        ('He said "yes" twice', "He agreed.", 0),
        ("uh-huh  i know", "'Quotes' mean nothing", 1),
    ],
    "validation_mismatched": [("It rained.", "It was dry.", 2), ("Café 5°", "A café", 0)],
    "train": [("One.", "Two.", 2), ('A "half quote', "B", 1), ("x", "y", 0)],
}
MNLI_NAMES = ("entailment", "neutral", "contradiction")
MNLI_HEAD = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2"
).split()


def mnli_file(rows, annotators):
    labels = [f"label{n + 1}" for n in range(annotators)]
    written = [
        (str(n), "31193", "31193n", "government", "( a )", "( b )", "(ROOT)", "(ROOT)", p, h)
        + (MNLI_NAMES[label],) * (annotators + 1)
        for n, (p, h, label) in enumerate(rows)
    ]
    return lines((*MNLI_HEAD, *labels, "gold_label"), *written)


PAIRS = {
    "train": [('A "fast" car .', "The car is fast", 1), ("Paris", "London , UK", 0)],
    "validation": [("One", "1", 1), ("Two", "3", 0), ("Ünder", "Über", 0)],
}
NLI = {
    "train": [("Dogs bark.", "Animals bark.", 0), ("It rains", "It snows", 1)],
    "validation": [("No one came", "All came.", 1), ("Ann won", "Somebody won", 0)],
}
SINGLE = {
    "train": [("a smart , funny film", 1), ('dull "beyond" words', 0), ("it 's fine", 1)],
    "validation": [("not bad", 1), ("no", 0)],
}
SCORES = {
    "train": [("A man sings.", "A man is singing.", 5.0), ("A cat", 'A "dog', 3.25)],
    "validation": [("x", "y", 0.0), ("p", "q", 2.733), ("Snow falls", "It snows", 4.75)],
}


def sample(folder, data, keys, head, row):
    """Files with the header `head`, in which `row` lays out one example."""
    files = {
        f"{folder}/{'dev' if split == 'validation' else split}.tsv": lines(
            *([head] if head else []), *(row(n, *example) for n, example in enumerate(examples))
        )
        for split, examples in data.items()
    }
    return {
        "files": files,
        "records": {split: labelled(rows, *keys) for split, rows in data.items()},
    }


def named(*names):
    return lambda n, first, second, label: (str(n), first, second, names[label])


SENTENCES = ("sentence1", "sentence2")
STSB_HEAD = "index genre filename year old_index source1 source2 sentence1 sentence2 score".split()
SAMPLES = {
    "glue_mnli": {
        "files": {
            "MNLI/train.tsv": mnli_file(MNLI["train"], 1),
            "MNLI/dev_matched.tsv": mnli_file(MNLI["validation_matched"], 5),
            "MNLI/dev_mismatched.tsv": mnli_file(MNLI["validation_mismatched"], 5),
        },
        "records": {s: labelled(rows, "premise", "hypothesis") for s, rows in MNLI.items()},
    },
    "glue_qqp": sample(
        "QQP", PAIRS, ("question1", "question2"),
        ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        lambda n, a, b, label: (str(n), str(2 * n), str(2 * n + 1), a, b, str(label)),
    ),
    "glue_qnli": sample(
        "QNLI", NLI, ("question", "sentence"), ("index", "question", "sentence", "label"),
        named("entailment", "not_entailment"),
    ),
    "glue_sst2": sample(
        "SST-2", SINGLE, ("sentence",), ("sentence", "label"), lambda n, s, label: (s, str(label))
    ),
    "glue_stsb": sample(
        "STS-B", SCORES, SENTENCES, STSB_HEAD,
        lambda n, a, b, score: (
            str(n), "main-captions", "MSRvid", "2012test", "1", "none", "none", a, b, f"{score:.3f}"
        ),
    ),
    "glue_mrpc": sample(
        "MRPC", PAIRS, SENTENCES, ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        lambda n, a, b, label: (str(label), str(7 * n), str(7 * n + 1), a, b),
    ),
    "glue_rte": sample(
        "RTE", NLI, SENTENCES, ("index", *SENTENCES, "label"), named("entailment", "not_entailment")
    ),
    "glue_cola": sample(
        "CoLA", SINGLE, ("sentence",), None,
        lambda n, s, label: ("gj04", str(label), "" if label else "*", s),
    ),
    "glue_wnli": sample(
        "WNLI", PAIRS, SENTENCES, ("index", *SENTENCES, "label"),
        lambda n, a, b, label: (str(n), a, b, str(label)),
    ),
}  # fmt: skip

# task -> split -> (attempt's inputs, attempt's targets, T5's inputs, T5's targets)
TEXTS = {
    "glue_mnli": {
        "train": [
            ("mnli premise: One. hypothesis: Two.", "2", "mnli hypothesis: Two. premise: One.",
             "contradiction"),
            ('mnli premise: A "half quote hypothesis: B', "1",
             'mnli hypothesis: B premise: A "half quote', "neutral"),
            ("mnli premise: x hypothesis: y", "0", "mnli hypothesis: y premise: x", "entailment"),
        ],
        "validation_matched": [
            ('mnli premise: He said "yes" twice hypothesis: He agreed.', "0",
             'mnli hypothesis: He agreed. premise: He said "yes" twice', "entailment"),
            ("mnli premise: uh-huh  i know hypothesis: 'Quotes' mean nothing", "1",
             "mnli hypothesis: 'Quotes' mean nothing premise: uh-huh  i know", "neutral"),
        ],
        "validation_mismatched": [
            ("mnli premise: It rained. hypothesis: It was dry.", "2",
             "mnli hypothesis: It was dry. premise: It rained.", "contradiction"),
            ("mnli premise: Café 5° hypothesis: A café", "0",
             "mnli hypothesis: A café premise: Café 5°", "entailment"),
        ],
    },
    "glue_qqp": {
        "train": [
            ('qqp question1: A "fast" car . question2: The car is fast', "1",
             'qqp question1: A "fast" car . question2: The car is fast', "duplicate"),
            ("qqp question1: Paris question2: London , UK", "0",
             "qqp question1: Paris question2: London , UK", "not_duplicate"),
        ],
    },
    "glue_qnli": {
        "validation": [
            ("qnli question: No one came sentence: All came.", "1",
             "qnli question: No one came sentence: All came.", "not_entailment"),
            ("qnli question: Ann won sentence: Somebody won", "0",
             "qnli question: Ann won sentence: Somebody won", "entailment"),
        ],
    },
    "glue_sst2": {
        "train": [
            ("sst2 sentence: a smart , funny film", "1", "sst2 sentence: a smart , funny film",
             "positive"),
            ('sst2 sentence: dull "beyond" words', "0", 'sst2 sentence: dull "beyond" words',
             "negative"),
            ("sst2 sentence: it 's fine", "1", "sst2 sentence: it 's fine", "positive"),
        ],
    },
    "glue_stsb": {
        "train": [
            ("stsb sentence1: A man sings. sentence2: A man is singing.", "5.0",
             "stsb sentence1: A man sings. sentence2: A man is singing.", "5.0"),
            ('stsb sentence1: A cat sentence2: A "dog', "3.2",
             'stsb sentence1: A cat sentence2: A "dog', "3.2"),
        ],
        "validation": [
            ("stsb sentence1: x sentence2: y", "0.0", "stsb sentence1: x sentence2: y", "0.0"),
            ("stsb sentence1: p sentence2: q", "2.7", "stsb sentence1: p sentence2: q", "2.8"),
            ("stsb sentence1: Snow falls sentence2: It snows", "4.8",
             "stsb sentence1: Snow falls sentence2: It snows", "4.8"),
        ],
    },
    "glue_mrpc": {
        "train": [
            ('mrpc sentence1: A "fast" car . sentence2: The car is fast', "1",
             'mrpc sentence1: A "fast" car . sentence2: The car is fast', "equivalent"),
            ("mrpc sentence1: Paris sentence2: London , UK", "0",
             "mrpc sentence1: Paris sentence2: London , UK", "not_equivalent"),
        ],
    },
    "glue_rte": {
        "validation": [
            ("rte sentence1: No one came sentence2: All came.", "1",
             "rte sentence1: No one came sentence2: All came.", "not_entailment"),
            ("rte sentence1: Ann won sentence2: Somebody won", "0",
             "rte sentence1: Ann won sentence2: Somebody won", "entailment"),
        ],
    },
    "glue_cola": {
        "validation": [
            ("cola sentence: not bad", "1", "cola sentence: not bad", "acceptable"),
            ("cola sentence: no", "0", "cola sentence: no", "unacceptable"),
        ],
    },
    "glue_wnli": {
        "validation": [
            ("wnli sentence1: One sentence2: 1", "1", "wnli sentence1: One sentence2: 1",
             "entailment"),
            ("wnli sentence1: Two sentence2: 3", "0", "wnli sentence1: Two sentence2: 3",
             "not_entailment"),
            ("wnli sentence1: Ünder sentence2: Über", "0", "wnli sentence1: Ünder sentence2: Über",
             "not_entailment"),
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", SAMPLES)
def test_the_texts_of_every_split(task, form, put, register):
    tasks = register(task, source=put(task, SAMPLES[task], form))
    for split, rows in TEXTS[task].items():
        assert tasks.texts(task, split) == [row[:2] for row in rows]
    for split, records in SAMPLES[task]["records"].items():
        assert len(tasks.store(task, split)) == len(records)


@pytest.mark.parametrize("task", SAMPLES)
def test_t5s_texts(task, put, register):
    tasks = register(task, source=put(task, SAMPLES[task], "folder"), text_format="t5")
    for split, rows in TEXTS[task].items():
        assert tasks.texts(task, split) == [row[2:] for row in rows]


METRICS = {
    "glue_qqp": {"accuracy", "f1"},
    "glue_mrpc": {"accuracy", "f1"},
    "glue_stsb": {"pearson", "spearman"},
    "glue_cola": {"matthews", "accuracy"},
}


@pytest.mark.parametrize("text_format", ["attempt", "t5"])
@pytest.mark.parametrize("task", SAMPLES)
def test_scores(task, text_format, put, register):
    tasks = register(task, source=put(task, SAMPLES[task], "folder"), text_format=text_format)
    split = "validation_matched" if task == "glue_mnli" else "validation"
    store, vocabulary = tasks.store(task, split), task_vocabulary(task)
    rows = store.read(range(len(store)))
    assert [vocabulary.decode(row.inputs.tolist()) for row in rows] == [r.inputs_text for r in rows]
    right = [vocabulary.decode(row.targets.tolist()) for row in rows]
    perfect = tasks.score(task, split, [f" {target} " for target in right])
    assert set(perfect) == METRICS.get(task, {"accuracy"})
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0))
    wrong = tasks.score(task, split, [*right[1:], right[0]])
    assert all(wrong[name] < perfect[name] for name in perfect)
    nonsense = tasks.score(task, split, ["what?"] * len(right))
    assert all(-1 <= value <= 0 for value in nonsense.values())


def test_rows_of_qqp_that_are_cut_short_are_left_out(write, register):
    head, *rows = SAMPLES["glue_qqp"]["files"]["QQP/train.tsv"].splitlines(keepends=True)
    broken = ["7\t8\t9\tonly one question\n", "7\t8\t9\ta\tb\t\n"]
    write("QQP/train.tsv", "".join([head, rows[0], *broken, rows[1]]))
    assert len(register("glue_qqp").store("glue_qqp", "train")) == 2


def test_mrpc_as_microsoft_distributes_it(write, register):
    pairs = [
        ("1", "10", "11", "A .", "B ."),
        ("0", "12", "13", "C", "D"),
        ("1", "14", "15", "E", "F"),
    ]
    head = ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    write("glue_data/MRPC/msr_paraphrase_train.txt", lines(head, *pairs).replace("\n", "\r\n"))
    write("glue_data/MRPC/dev_ids.tsv", "12\t13\n")
    tasks = register("glue_mrpc")
    assert tasks.texts("glue_mrpc", "train") == [
        ("mrpc sentence1: A . sentence2: B .", "1"),
        ("mrpc sentence1: E sentence2: F", "1"),
    ]
    assert tasks.texts("glue_mrpc", "validation") == [("mrpc sentence1: C sentence2: D", "0")]


@pytest.mark.parametrize(
    ("label", "nearest_tenth", "nearest_fifth"),
    [
        (0.0, "0.0", "0.0"),
        (0.1, "0.1", "0.0"),
        (0.25, "0.2", "0.2"),
        (1.667, "1.7", "1.6"),
        (2.75, "2.8", "2.8"),
        (3.35, "3.3", "3.4"),
        (4.9, "4.9", "4.8"),
        (5, "5.0", "5.0"),
    ],
)
def test_similarities_are_rounded(label, nearest_tenth, nearest_fifth):
    """Of the float32 that TFDS and the hub store: 3.35 is a little less there."""
    assert similarity_score(label) == nearest_tenth
    assert similarity_step(label) == nearest_fifth
