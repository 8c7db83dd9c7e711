import json

import pytest

from mpt_jax.errors import UserError


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


WINOGRANDE = lines(
    {
        "qID": "3QHITW7OYO7Q6B6ISU2UMJB84ZLAQE-2",
        "sentence": "Ian ate the menudo because _ enjoyed it.",
        "option1": "Ian",
        "option2": "Dennis",
        "answer": "2",
    },
    {"qID": "b-1", "sentence": "_ was loud.", "option1": "Ann", "option2": "Bea", "answer": "1"},
)
SENTENCE = "sentence: Ian ate the menudo because _ enjoyed it."


@pytest.fixture
def winogrande(write):
    write("winogrande_1.1/train_xl.jsonl", WINOGRANDE)
    write("winogrande_1.1/dev.jsonl", WINOGRANDE)


def test_winogrande(winogrande, register):
    tasks = register("winogrande")
    assert tasks.texts("winogrande", "train") == [
        (f"winogrande {SENTENCE} option0: Ian option1: Dennis", "1"),
        ("winogrande sentence: _ was loud. option0: Ann option1: Bea", "0"),
    ]
    assert tasks.score("winogrande", "validation", ["1", "neither"]) == {"accuracy": 0.5}


def test_winogrande_with_attempts_fault(winogrande, register):
    tasks = register("winogrande", faulty_winogrande=True)
    assert tasks.texts("winogrande", "train") == [
        (f"winogrande {SENTENCE} option0: Ian option1: Ian", "1"),
        ("winogrande sentence: _ was loud. option0: Ann option1: Ann", "0"),
    ]
    assert tasks.score("winogrande", "validation", ["1", "1"]) == {"accuracy": 0.5}
    with pytest.raises(UserError, match="faulty_winogrande"):
        register("winogrande")


def test_winogrande_in_t5s_manner(winogrande, register):
    tasks = register("winogrande", text_format="t5")
    assert tasks.texts("winogrande", "validation") == [
        (f"winogrande option1: Ian option2: Dennis {SENTENCE}", "option2"),
        ("winogrande option1: Ann option2: Bea sentence: _ was loud.", "option1"),
    ]
    assert tasks.score("winogrande", "validation", ["option2", "Ann"]) == {"accuracy": 0.5}


YELP = (
    '"1","Unfortunately, ""no"".\\n\\nNever again. "\n'
    '"2","Been going\nto Dr. Goldberg for over 10 years."\n'
)


@pytest.mark.parametrize(
    ("text_format", "labels"), [("attempt", ("0", "1")), ("t5", ("negative", "positive"))]
)
def test_yelp(write, register, text_format, labels):
    write("yelp_review_polarity_csv/train.csv", YELP)
    write("yelp_review_polarity_csv/test.csv", YELP)
    tasks = register("yelp_polarity", text_format=text_format)
    assert tasks.texts("yelp_polarity", "test") == [
        ('yelp_polarity sentence: Unfortunately, "no".\\n\\nNever again.', labels[0]),
        ("yelp_polarity sentence: Been going\nto Dr. Goldberg for over 10 years.", labels[1]),
    ]
    assert tasks.score("yelp_polarity", "test", [labels[0]] * 2) == {"accuracy": 0.5}


SCITAIL = lines(
    *(
        {
            "sentence1_binary_parse": "( ( Pluto ) ( ... ) )",
            "sentence1_parse": "(ROOT ...)",
            "sentence1": premise,
            "sentence2_parse": "(ROOT ...)",
            "sentence2": "Pluto rotates on its axis.",
            "annotator_labels": [label],
            "gold_label": label,
        }
        for premise, label in (
            ("Pluto turns once in six days.", "entailment"),
            ("Pluto is small.", "neutral"),
        )
    )
)


@pytest.mark.parametrize(
    ("text_format", "form", "labels"),
    [
        ("attempt", "scitail premise: {} hypothesis: {}", ("0", "1")),
        ("t5", "scitail hypothesis: {1} premise: {0}", ("entailment", "neutral")),
    ],
)
def test_scitail(write, register, text_format, form, labels):
    for name in ("train", "dev", "test"):
        write(f"SciTailV1.1/snli_format/scitail_1.0_{name}.txt", SCITAIL)
    tasks = register("scitail", text_format=text_format)
    hypothesis = "Pluto rotates on its axis."
    assert tasks.texts("scitail", "validation") == [
        (form.format("Pluto turns once in six days.", hypothesis), labels[0]),
        (form.format("Pluto is small.", hypothesis), labels[1]),
    ]
    assert tasks.score("scitail", "validation", labels[:1] * 2) == {"accuracy": 0.5}


PAWS = (
    "id\tsentence1\tsentence2\tlabel\n"
    '1\tIn Paris , in October 1560 , he met "him" .\tIn October 1560 , he met him in Paris .\t0\n'
    "2\tThe NBA season of 1975 -- 76 was the 30th .\tThe 1975 -- 76 season was the 30th .\t1\n"
)


@pytest.mark.parametrize(
    ("text_format", "labels"),
    [("attempt", ("0", "1")), ("t5", ("different_meaning", "paraphrase"))],
)
def test_paws(write, register, text_format, labels):
    for name in ("train", "dev", "test"):
        write(f"final/{name}.tsv", PAWS)
    tasks = register("paws", text_format=text_format)
    assert tasks.texts("paws", "test") == [
        (
            'paws sentence1: In Paris , in October 1560 , he met "him" . '
            "sentence2: In October 1560 , he met him in Paris .",
            labels[0],
        ),
        (
            "paws sentence1: The NBA season of 1975 -- 76 was the 30th . "
            "sentence2: The 1975 -- 76 season was the 30th .",
            labels[1],
        ),
    ]
    assert tasks.score("paws", "test", labels) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("task", "file", "content", "message"),
    [
        ("winogrande", "winogrande/dev.jsonl", '{"sentence": "_"}', "line 1: .*KeyError: 'answer'"),
        (
            "winogrande",
            "winogrande/dev.jsonl",
            lines({"sentence": "_", "option1": "a", "option2": "b", "answer": ""}),
            r"line 1: 'label' is ''; expected one of the labels 0 \(1\), 1 \(2\)",
        ),
        (
            "scitail",
            "scitail/scitail_1.0_dev.txt",
            SCITAIL + lines({"sentence1": "a", "sentence2": "b", "gold_label": "entails"}),
            r"line 3: 'label' is 'entails'; expected one of",
        ),
        ("scitail", "scitail/scitail_1.0_dev.txt", SCITAIL[:-9], "line 2: not JSON"),
        ("paws", "paws/dev.tsv", PAWS + "3\tone\n", "line 4: 2 columns"),
        ("paws", "paws/dev.tsv", PAWS.replace("label", "noisy"), "line 1: .* no column 'label'"),
        ("paws", "paws/dev.tsv", PAWS.replace("\t1\n", "\t-1\n"), "line 3: 'label' is '-1'"),
        (
            "yelp_polarity",
            "yelp_polarity/test.csv",
            YELP + '"3","x"\n',
            "line 4: 2 columns, the .*'3'",
        ),
        ("yelp_polarity", "yelp_polarity/test.csv", YELP + '"1"\n', "line 4: 1 columns"),
        ("yelp_polarity", "yelp_polarity/test.csv", YELP + '"1","a\nb\n', "line 4: not CSV"),
        ("yelp_polarity", "yelp_polarity/test.csv", YELP + '"1","a"b"\n', "line 4: not CSV"),
        (
            "yelp_polarity",
            "yelp_polarity/test.csv",
            YELP.encode() + b'"1","\xe9"',
            "line 4: byte 6",
        ),
    ],
    ids=range(12),
)
def test_damaged_files_are_named_with_the_line(write, register, task, file, content, message):
    path = write(file, content)
    split = "test" if task == "yelp_polarity" else "validation"
    with pytest.raises(UserError, match=message) as error:
        register(task).store(task, split)
    assert str(path) in str(error.value)


def test_the_sets_are_a_mixture_with_the_papers_split_rules(register, own_registries):
    from mpt_jax.tasks.benchmark import Benchmark

    register("others")
    mixture = own_registries.MixtureRegistry.get("others")
    assert mixture.get_rate(own_registries.TaskRegistry.get("yelp_polarity")) == 2**18
    assert Benchmark(sets=("others",)).split_rules() == {
        "winogrande": "held_out_train",
        "yelp_polarity": "yelp",
        "scitail": "halved_validation",
        "paws": "official",
    }
