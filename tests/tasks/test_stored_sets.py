"""What TFDS prepares and the hub has, in their published schemas, gives the texts that the files give."""

import shutil

import pytest

from mpt_jax.errors import UserError

FORMS = ("tfds", "saved", "parquet")


def by_form(form, tfds, hub):
    return tfds if form == "tfds" else hub


def squad_answers(*texts):
    return {"text": list(texts), "answer_start": [0] * len(texts)}


SQUAD = [
    {
        "id": "1",
        "title": "Emma",
        "context": "Emma, a novel.",
        "question": "What?",
        "answers": squad_answers("novel", "a novel."),
    },
    {
        "id": "2",
        "title": "Ulm",
        "context": "Ulm is a city.",
        "question": "Where?",
        "answers": squad_answers("Ulm"),
    },
]


@pytest.mark.parametrize("form", FORMS)
def test_squad(put_stored, register, form):
    source = put_stored("squad", form, {"train": SQUAD[:1], "validation": SQUAD})
    tasks = register("squad", source=source)
    assert tasks.texts("squad", "validation") == [
        ("squad question: What ? context: Emma , a novel .", "novel"),
        ("squad question: Where ? context: Ulm is a city .", "Ulm"),
    ]
    assert tasks.extras("squad", "validation", "answers") == [["novel", "a novel ."], ["Ulm"]]


def test_changed_records_give_another_store(put_stored, register, data_dir):
    source = put_stored("squad", "parquet", {"train": SQUAD, "validation": SQUAD})
    tasks = register("squad", source=source)
    before = tasks.store("squad", "validation").manifest.source
    shutil.rmtree(data_dir)
    put_stored("squad", "parquet", {"train": SQUAD, "validation": SQUAD[::-1]})
    assert tasks.store("squad", "validation").manifest.source != before
    assert tasks.texts("squad", "validation")[0][1] == "Ulm"


def mrqa(subset, number, question, *answers):
    return {
        "subset": subset,
        "context": "[PAR] Ulm.",
        "context_tokens": {"tokens": ["[PAR]", "Ulm", "."], "offsets": [0, 6, 9]},
        "qid": f"q{number}",
        "question": question,
        "question_tokens": {"tokens": [question], "offsets": [0]},
        "detected_answers": {
            "text": list(answers),
            "char_spans": [{"start": [6], "end": [8]}] * len(answers),
            "token_spans": [{"start": [1], "end": [1]}] * len(answers),
        },
        "answers": list(answers),
    }


def tokens_one_by_one(record):
    """TFDS's encoder wants lists of dicts where the hub's tables have dicts of lists."""
    spans = [{"start": 6, "end": 8}]
    detected = [
        {"text": text, "char_spans": spans, "token_spans": spans} for text in record["answers"]
    ]
    return {
        **record,
        "context_tokens": [],
        "question_tokens": [],
        "detected_answers": detected,
    }


MRQA = [
    mrqa("NaturalQuestionsShort", 1, "Who?", "Ulm", "the Ulm"),
    mrqa("HotpotQA", 2, "What?", "Ulm"),
    mrqa("NaturalQuestionsShort", 3, "Where?", "Ulm"),
]


@pytest.mark.parametrize("form", FORMS)
def test_mrqa(put_stored, register, form):
    natural = [tokens_one_by_one(record) for record in (MRQA[0], MRQA[2])]
    records = by_form(form, natural, MRQA)
    source = put_stored("mrqa_natural_questions", form, {"train": records, "validation": records})
    tasks = register("mrqa_natural_questions", source=source)
    assert tasks.texts("mrqa_natural_questions", "train") == [
        ("naturalquestions question: Who ? context: [ PAR ] Ulm .", "Ulm"),
        ("naturalquestions question: Where ? context: [ PAR ] Ulm .", "Ulm"),
    ]
    scores = tasks.score("mrqa_natural_questions", "train", ["the Ulm", "Bonn"])
    assert scores == {"squad_f1": 0.5, "squad_em": 0.5}


def test_a_subset_that_is_not_there(put_stored, register):
    source = put_stored("mrqa_newsqa", "parquet", {"train": MRQA, "validation": MRQA})
    with pytest.raises(UserError, match=r"subset 'NewsQA'; there are 'NaturalQ.*row 1.*'HotpotQA'"):
        register("mrqa_newsqa", source=source).store("mrqa_newsqa", "train")


WINOGRANDE = {"sentence": "_ sang.", "option1": "Ann", "option2": "Bea"}


@pytest.mark.parametrize("form", FORMS)
def test_winogrande(put_stored, register, form):
    field, train = by_form(form, ("label", "train_xl"), ("answer", "train"))
    rows = [{**WINOGRANDE, field: "2"}, {**WINOGRANDE, field: "1"}]
    source = put_stored("winogrande", form, {train: rows, "validation": rows})
    tasks = register("winogrande", source=source)
    text = "winogrande sentence: _ sang. option0: Ann option1: Bea"
    assert tasks.texts("winogrande", "train") == [(text, "1"), (text, "0")]


@pytest.mark.parametrize("form", FORMS)
def test_yelp(put_stored, register, form):
    rows = [{"text": 'She said ""no"".\\n', "label": 0}, {"text": "Fine", "label": 1}]
    source = put_stored("yelp_polarity", form, {"train": rows, "test": rows})
    tasks = register("yelp_polarity", source=source)
    assert tasks.texts("yelp_polarity", "test") == [
        ('yelp_polarity sentence: She said "no".\\n', "0"),
        ("yelp_polarity sentence: Fine", "1"),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_scitail(put_stored, register, form):
    names = by_form(
        form, ("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label")
    )
    labels = by_form(form, ("entails", "neutral"), ("entailment", "neutral"))
    rows = [dict(zip(names, ("It is.", "Is it?", label), strict=True)) for label in labels]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    tasks = register("scitail", source=put_stored("scitail", form, splits))
    text = "scitail premise: It is. hypothesis: Is it?"
    assert tasks.texts("scitail", "validation") == [(text, "0"), (text, "1")]


@pytest.mark.parametrize("form", FORMS)
def test_paws(put_stored, register, form):
    rows = [{"sentence1": "a b", "sentence2": "b a", "label": label} for label in (0, 1)]
    if form != "tfds":
        rows = [{"id": number, **row} for number, row in enumerate(rows)]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    tasks = register("paws", source=put_stored("paws", form, splits))
    text = "paws sentence1: a b sentence2: b a"
    assert tasks.texts("paws", "test") == [(text, "0"), (text, "1")]


def e2e(form, number, meaning, text):
    if form != "tfds":
        return {"meaning_representation": meaning, "human_reference": text}
    return {
        "gem_id": f"e2e_nlg-{number}",
        "gem_parent_id": f"e2e_nlg-{number}",
        "meaning_representation": meaning,
        "target": text,
        "references": [text],
    }


@pytest.mark.parametrize("form", FORMS)
def test_e2e(put_stored, register, form):
    pairs = [("name[A]", "A."), ("name[B]", "B."), ("name[A]", "It is A.")]
    rows = [e2e(form, number, *pair) for number, pair in enumerate(pairs)]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    tasks = register("e2e_nlg", source=put_stored("e2e_nlg", form, splits))
    prefix = "e2e_nlg meaning_representation: "
    assert tasks.texts("e2e_nlg", "train") == [(prefix + mr, text) for mr, text in pairs]
    assert tasks.texts("e2e_nlg", "test") == [(prefix + mr, text) for mr, text in pairs[:2]]
    assert tasks.extras("e2e_nlg", "test", "answers") == [["A.", "It is A."], ["B."]]


SEEN, UNSEEN = "Aarhus | leader | Jacob_B", "Aaron | born | 1980"


def hub_entry(category, triple, texts, test_category=""):
    return {
        "category": category,
        "size": 1,
        "eid": "Id1",
        "original_triple_sets": {"otriple_set": [[triple]]},
        "modified_triple_sets": {"mtriple_set": [[triple]]},
        "shape": "",
        "shape_type": "",
        "lex": {"comment": [""] * len(texts), "lid": ["Id1"] * len(texts), "text": texts},
        "test_category": test_category,
        "dbpedia_links": [""],
        "links": [""],
    }


def hub_web_nlg():
    airport, artist = ("City", SEEN, ["One.", "Two."]), ("Artist", UNSEEN, ["Three."])
    test = [
        hub_entry(*airport[:2], [""], "testdata_no_lex"),
        hub_entry(*artist, "testdata_unseen_with_lex"),
        hub_entry(*artist, "testdata_with_lex"),
        hub_entry(*airport, "testdata_with_lex"),
    ]
    return {"train": [hub_entry(*airport)], "dev": [hub_entry(*airport)], "test": test}


def tfds_web_nlg():
    def row(category, triple, target, references):
        return {
            "gem_id": "web_nlg_en-1",
            "gem_parent_id": "web_nlg_en-1",
            "input": [triple],
            "category": category,
            "webnlg_id": "train/Airport/1/Id1",
            "target": target,
            "references": references,
        }

    whole = row("City", SEEN, "One.", ["One.", "Two."])
    return {
        "train": [row("City", SEEN, "One.", []), row("City", SEEN, "Two.", [])],
        "validation": [whole],
        "test": [row("Artist", UNSEEN, "Three.", ["Three."]), whole],
    }


def test_web_nlg_of_newer_releases_of_datasets(put_stored, register):
    entry = hub_entry("City", SEEN, ["One.", "Two."])
    sets = {
        f"{kind}_triple_sets": [{f"{kind[0]}triple_set": [SEEN]}]
        for kind in ("original", "modified")
    }
    splits = dict.fromkeys(("train", "dev", "test"), [{**entry, **sets}])
    tasks = register("web_nlg", source=put_stored("web_nlg", "saved", splits))
    assert tasks.extras("web_nlg", "validation", "answers") == [["One.", "Two."]]


@pytest.mark.parametrize("form", FORMS)
def test_web_nlg(put_stored, register, form):
    source = put_stored("web_nlg", form, by_form(form, tfds_web_nlg, hub_web_nlg)())
    tasks = register("web_nlg", source=source)
    seen, unseen = f"web_nlg triples: {SEEN}", f"web_nlg triples: {UNSEEN}"
    assert tasks.texts("web_nlg", "train") == [(seen, "One."), (seen, "Two.")]
    assert tasks.texts("web_nlg", "validation") == [(seen, "One.")]
    assert tasks.texts("web_nlg", "test") == [(unseen, "Three."), (seen, "One.")]
    assert tasks.extras("web_nlg", "test_seen", "answers") == [["One.", "Two."]]
    assert tasks.extras("web_nlg", "test_unseen", "answers") == [["Three."]]


@pytest.mark.parametrize(
    ("task", "records", "message"),
    [
        ("squad", {**SQUAD[0], "answers": squad_answers()}, "row 1: the question has no answer"),
        ("squad", {**SQUAD[0], "answers": 7}, "row 1: not the .* schema .TypeError"),
        ("squad", {"id": "1"}, "row 1: not the .* schema .KeyError: 'answers'"),
        (
            "scitail",
            {"sentence1": "a"},
            "row 1: .* schema .KeyError: 'sentence2'.; it has 'sentence1'",
        ),
        ("e2e_nlg", {"mr": "name[A]"}, "row 1: .*KeyError: 'meaning_representation'"),
        ("e2e_nlg", e2e("hub", 1, "name", "A."), "row 1: the input is 'name'"),
        ("web_nlg", hub_entry("City", "a | b", ["One."]), "row 1: the triple 'a . b'"),
    ],
    ids=range(7),
)
def test_rows_of_another_schema_are_named(put_stored, register, task, records, message):
    splits = dict.fromkeys(("train", "validation", "dev"), [records])
    source = put_stored(task, "parquet", splits)
    with pytest.raises(UserError, match=message):
        register(task, source=source, text_format="t5").store(task, "validation")
