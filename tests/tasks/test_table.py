"""A table as a seqio task, and what is refused before anything trains."""

import itertools
import re

import pytest

seqio = pytest.importorskip("seqio")

from mpt_jax.data import families  # noqa: E402
from mpt_jax.data.families import TaskFamily, register_families  # noqa: E402
from mpt_jax.data.fill import fill_store  # noqa: E402
from mpt_jax.data.scoring import majority_score, score_predictions  # noqa: E402
from mpt_jax.data.tasks import list_tasks  # noqa: E402
from mpt_jax.data.vocabularies import ByteVocabulary  # noqa: E402
from mpt_jax.errors import UserError  # noqa: E402
from mpt_jax.tasks.mixture import Mixture  # noqa: E402
from mpt_jax.tasks.table import Table  # noqa: E402

LENGTHS = {"inputs": 32, "targets": 16}
_names = (f"table_{i}" for i in itertools.count())


@pytest.fixture(autouse=True)
def own_registries():
    """Tasks of a test are gone after it."""
    kept = [(r, dict(r._REGISTRY)) for r in (seqio.TaskRegistry, seqio.MixtureRegistry)]
    registered = dict(families._registered)
    yield
    for registry, entries in kept:
        registry._REGISTRY = entries
    families._registered.clear()
    families._registered.update(registered)


@pytest.fixture
def write(tmp_path):
    def file(name, *rows, header="text,label"):
        path = tmp_path / name
        path.write_text("\n".join([header, *rows]) + "\n")
        return str(path)

    return file


@pytest.fixture
def reviews(write):
    """40 rows of two labels."""
    return write("reviews.csv", *(f"film {i},{('bad', 'good')[i % 2]}" for i in range(40)))


def table(**options):
    return Table(
        **{"name": next(_names), "inputs": "review: {text}", "targets": "{label}", **options}
    )


def register(family):
    register_families([family], ByteVocabulary())
    return seqio.TaskRegistry.get(family.name)


def read(family, split):
    return [(e.inputs, e.targets) for e in family.read()[split]]


def error_of(family):
    with pytest.raises(UserError) as error:
        family.register(seqio.ByteVocabulary())
    assert family.name not in seqio.TaskRegistry.names()
    return re.sub(r"\s+", " ", str(error.value))


def test_a_seqio_task_like_any_other(reviews, tmp_path):
    family = table(file=reviews, metrics=("accuracy", "f1"), positive="good", stratify=True)
    assert isinstance(family, TaskFamily)
    task = register(family)
    assert list(task.splits) == ["train", "validation", "test"]
    assert [task.num_input_examples(split) for split in task.splits] == [32, 4, 4]
    store = fill_store(task.name, "test", LENGTHS, tmp_path)
    examples = store.read(range(len(store)))
    assert all(re.fullmatch(r"review: film \d+", e.inputs_text) for e in examples)
    assert [(e.inputs_text, e.targets_text) for e in examples] == read(family, "test")
    targets = [e.targets_text for e in examples]
    assert sorted(targets) == ["bad", "bad", "good", "good"]
    assert score_predictions(task.name, store, [f" {t} " for t in targets]) == {
        "accuracy": 1, "f1": 1,
    }  # fmt: skip
    assert majority_score(task.name, store)["accuracy"] == 0.5
    (summary,) = list_tasks(task.name)
    assert summary.problem is None and summary.metrics == ("accuracy", "f1")
    assert summary.inputs_text == "review: film 0"


def test_it_is_hashable_with_what_gin_gives(reviews):
    first, second = (
        Table("same", "{text}", "{label}", file=reviews, labels={0: "no", "1": "yes"},
              fractions=[0.5, 0.25, 0.25], metrics=["accuracy"])
        for _ in range(2)
    )  # fmt: skip
    assert hash(first) == hash(second) and first == second
    assert first.labels == (("0", "no"), ("1", "yes"))


def test_files_for_splits(write):
    train, test = write("train.csv", "a,1", "b,0"), write("test.csv", "c,1")
    family = table(train=train, test=test, labels={0: "bad", 1: "good"})
    assert read(family, "train") == [("review: a", "good"), ("review: b", "bad")]
    assert list(family.read()) == ["train", "test"]
    assert list(register(family).splits) == ["train", "test"]


def test_several_files_in_the_place_of_one(write):
    parts = [write("a.csv", "a,1", "b,0"), write("b.csv", "0,c", header="label,text")]
    family = table(train=parts)
    assert hash(family)
    assert [text for text, _ in read(family, "train")] == ["review: a", "review: b", "review: c"]
    assert len(table(file=parts, fractions=(0.5, 0.5, 0)).read()["train"]) in (1, 2)
    assert "b.csv, line 3" in error_of(table(train=[parts[0], write("b.csv", "a,1", ",0")]))


def test_one_file_divided_and_another(reviews, write):
    test = write("test.csv", "c,good")
    family = table(file=reviews, test=test, fractions=(0.9, 0.1, 0))
    found = {split: len(rows) for split, rows in family.read().items()}
    assert found == {"train": 36, "validation": 4, "test": 1}


def test_rows_of_one_input_stay_together(write):
    path = write("a.csv", *(f"film {i // 4},{i % 2}" for i in range(80)))
    splits = table(file=path, fractions=(0.6, 0.2, 0.2)).read()
    assert [len(rows) for rows in splits.values()] == [48, 16, 16]
    texts = [{e.inputs for e in rows} for rows in splits.values()]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 20


def test_white_space_round_a_target_is_none(reviews, tmp_path):
    task = register(table(file=reviews, targets=" {label} ", metrics="f1", positive="good"))
    store = fill_store(task.name, "test", LENGTHS, tmp_path)
    targets = [e.targets_text for e in store.read(range(len(store)))]
    assert set(targets) == {"good", "bad"}
    assert score_predictions(task.name, store, targets) == {"f1": 1}


def test_a_column_may_be_empty_beside_others(write):
    path = write("a.csv", "x,,1", header="text,more,label")
    assert read(table(inputs="{text} [{more}]", train=path), "train") == [("x []", "1")]


def test_the_token_store_follows_the_file(write, tmp_path):
    """Its key is the texts', not the file's: another form of the same rows has the same store."""

    def stores(count=4, **options):
        family = table(name="same", **options)
        seqio.TaskRegistry.reset()
        family.register(seqio.ByteVocabulary())
        for split in family.read():
            assert len(fill_store("same", split, LENGTHS, tmp_path / "stores")) > 0
        return {path.name for path in (tmp_path / "stores").iterdir()}

    rows = [f"text {i},{i % 2}" for i in range(4)]
    first = stores(train=write("a.csv", *rows))
    assert len(first) == 1
    assert stores(train=write("a.csv", *rows, header="text ,label")) == first
    tabs = write("b.tsv", *(row.replace(",", "\t") for row in rows), header="text\tlabel")
    assert stores(train=tabs) == first
    assert len(stores(train=write("a.csv", *rows[:-1], "text 3,0"))) == 2
    assert len(stores(train=write("a.csv", *rows), inputs="{text}")) == 3
    assert len(stores(train=write("a.csv", *rows), labels={0: "a", 1: "b"})) == 4
    assert len(stores(train=write("a.csv", *reversed(rows)))) == 5
    path = write("c.csv", *(f"text {i},{i % 2}" for i in range(9)))
    two = {"fractions": (0.5, 0.5, 0)}
    assert len(stores(file=path, **two)) == 7
    assert len(stores(file=path, split_seed=1, **two)) == 9


def test_a_text_that_names_a_file_is_only_text(write, tmp_path):
    other = tmp_path / "other.txt"
    path = write("a.csv", f"{other},1", "b,0")
    register(family := table(train=path))
    other.write_text("one")
    first = fill_store(family.name, "train", LENGTHS, tmp_path / "stores").folder
    other.write_text("two")
    assert fill_store(family.name, "train", LENGTHS, tmp_path / "stores").folder == first


# What is refused.


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a,1", "b,"], "line 3: an empty target: nothing stands in 'label'"),
        (["a,1", "b, "], "line 3: an empty target"),
        (['"  ",1'], "line 2: an empty input: nothing stands in 'text'"),
        (["a,2"], "line 2: unknown label '2'; known are: 0, 1 (of `labels`)"),
        ([], "has no rows"),
        (["a,1,2"], "line 2: 3 field(s)"),
    ],
)
def test_rows(write, rows, said):
    assert said in error_of(table(train=write("a.csv", *rows), labels={0: "no", 1: "yes"}))


def test_an_empty_label_in_the_mapping(reviews):
    assert "has an empty text" in error_of(table(file=reviews, labels={"bad": "no", "good": " "}))


def test_columns_in_templates(reviews):
    error = error_of(table(file=reviews, inputs="{txt}"))
    assert "reviews.csv, line 1: unknown column 'txt'; did you mean 'text'" in error
    assert "unknown column 'class'" in error_of(table(file=reviews, targets="{class}"))
    assert "targets = 'label' names no column" in error_of(table(file=reviews, targets="label"))


def test_the_same_input_in_two_files(write):
    train, test = write("train.csv", "a,1", "b,0"), write("test.csv", "c,1", "a,0")
    error = error_of(table(train=train, test=test))
    assert "train.csv, line 2 and" in error and "test.csv, line 3: 'review: a'" in error


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ((0.8, 0.1, 0.2), "sum to 1.1"),
        ((0.5, 0.5), "expected shares of `file` for (train, validation, test)"),
        ((1.2, -0.1, -0.1), "none below 0"),
        ((float("nan"), 0.5, 0.5), "none below 0"),
        ((0, 0.5, 0.5), "leave nothing for training"),
        ((0.998, 0.001, 0.001), "the split 'validation' gets none of the 40 rows"),
    ],
)
def test_fractions(reviews, fractions, said):
    assert said in error_of(table(file=reviews, fractions=fractions))


def test_fractions_that_are_rounded_sum_to_one(reviews):
    assert len(table(file=reviews, fractions=(1 / 3, 1 / 3, 1 / 3)).read()) == 3
    assert len(table(file=reviews, fractions=(0.7, 0.2, 0.1)).read()) == 3


def test_where_splits_come_from(reviews, write):
    assert "has no training set" in error_of(table())
    assert "has no training set" in error_of(table(test=reviews))
    error = error_of(table(file=reviews, test=write("b.csv", "c,good")))
    assert "'test' has a file of its own" in error and "0.1" in error
    assert "has no rows" in error_of(table(train=reviews, validation=write("empty.csv")))


def test_names(reviews):
    register(family := table(file=reviews))
    with pytest.raises(UserError, match="already"):
        register(table(name=family.name, file=reviews, split_seed=3))
    assert "cannot be called 'my reviews'" in error_of(table(name="my reviews", file=reviews))


def test_a_mixture_of_tables(reviews):
    a, b = (table(file=reviews, inputs=f"{n}: {{text}}") for n in "ab")
    mixture = Mixture("mixed", [a.name, b.name, a.name])
    assert isinstance(mixture, TaskFamily) and hash(mixture) == hash(
        Mixture("mixed", mixture.tasks)
    )
    register_families([a, b, mixture, Mixture("twice", ("mixed", b.name))], ByteVocabulary())
    for name in ("mixed", "twice"):
        found = seqio.MixtureRegistry.get(name)
        assert {task.name for task in found.tasks} == {a.name, b.name}
        assert {found.get_rate(task) for task in found.tasks} == {1.0}


def test_mixtures_that_cannot_be():
    with pytest.raises(UserError, match="unknown task or mixture 'nobody'"):
        Mixture("mixed", ("nobody",)).register(None)
    with pytest.raises(UserError, match="no tasks"):
        Mixture("mixed", ()).register(None)
