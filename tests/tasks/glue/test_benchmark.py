"""The family: what is registered when, under which settings, and when token stores are made anew."""

import os

import pytest

from mpt_jax.data import families
from mpt_jax.data.families import TaskFamily, register_families
from mpt_jax.data.splits import RULES
from mpt_jax.data.tasks import about_task, import_seqio, mixture_rates
from mpt_jax.data.vocabularies import ByteVocabulary
from mpt_jax.errors import UserError
from mpt_jax.stages.data import Data
from mpt_jax.tasks import glue, super_glue
from mpt_jax.tasks.benchmark import DATA_SETS, MIXTURES, Benchmark
from mpt_jax.tasks.data_set import Place, checked
from mpt_jax.tasks.metrics import METRICS
from mpt_jax.tasks.stored_readers import read_tfds

OURS = [d.task for d in (*glue.DATA_SETS, *super_glue.DATA_SETS)]
HEAD = "index\tsentence1\tsentence2\tlabel\n"
ROW = "0\ta\tb\tentailment\n"


@pytest.fixture
def seqio(own_registries, monkeypatch):
    monkeypatch.setattr(families, "_registered", {})
    return own_registries


@pytest.fixture
def vocabulary(seqio):
    return seqio.ByteVocabulary()


def test_a_benchmark_is_a_family():
    assert isinstance(Benchmark(), TaskFamily)
    assert hash(Benchmark(sets=("glue",))) == hash(Benchmark(sets=("glue",)))


@pytest.mark.parametrize("task", OURS)
def test_a_data_set_is_complete(task):
    data_set = DATA_SETS[task]
    assert set(data_set.formats) == {"attempt", "t5"}
    assert set(data_set.metrics) <= set(METRICS)
    assert data_set.licence and data_set.homepage.startswith("https://")
    assert data_set.citation.count("{") == data_set.citation.count("}") > 4
    needed = {part.split for part in RULES[data_set.split_rule].values()}
    assert needed <= set(data_set.sizes)
    for layout in data_set.layouts:
        assert set(layout.files) == set(data_set.sizes)


def test_sets_are_named_by_task_or_mixture():
    assert Benchmark(sets=("glue_rte", "glue", "glue_rte")).names() == (
        "glue_rte", "glue_mnli", "glue_qqp", "glue_qnli", "glue_sst2", "glue_stsb", "glue_mrpc",
        "glue_cola",
    )  # fmt: skip
    assert Benchmark().names() == tuple(DATA_SETS)
    assert (
        Benchmark(sets="glue_rte") == Benchmark(sets=["glue_rte"]) == Benchmark(sets=("glue_rte",))
    )
    assert hash(Benchmark(sets=["glue_rte"])) == hash(Benchmark(sets="glue_rte"))
    rules = Benchmark(sets=("glue_mnli", "glue_qqp", "super_glue_cb")).split_rules()
    assert rules == {
        "glue_mnli": "mnli", "glue_qqp": "held_out_train", "super_glue_cb": "halved_validation",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sets": ("glue_rt",)}, "unknown set of the benchmark 'glue_rt'; did you mean 'glue_rte'"),
        ({"source": "hub"}, "unknown source of data 'hub'"),
        ({"text_format": "T5"}, "unknown text format 'T5'"),
        ({"data_dir": None}, "there is no data_dir. Set DATA_DIR"),
        ({"data_dir": None, "source": "datasets"}, "there is no data_dir"),
    ],
)
def test_wrong_settings(settings, message, seqio, vocabulary):
    family = Benchmark(**{"sets": ("glue_rte", "glue_mnli"), "data_dir": "d", **settings})
    with pytest.raises(UserError, match=message):
        family.register(vocabulary)
    assert not seqio.TaskRegistry.names()


def test_mixtures_appear_with_their_last_task(seqio, vocabulary):
    Benchmark(sets=("glue",), data_dir="d").register(vocabulary)
    assert set(seqio.MixtureRegistry.names()) == {"glue"}
    Benchmark(sets=("super_glue",), data_dir="d", source="tfds").register(vocabulary)
    assert set(seqio.MixtureRegistry.names()) == {"glue", "super_glue"}
    others = tuple(set(DATA_SETS) - set(MIXTURES["glue"]) - set(MIXTURES["super_glue"]))
    Benchmark(sets=others, data_dir="d").register(vocabulary)
    complete = {name for name, tasks in MIXTURES.items() if set(tasks) <= set(DATA_SETS)}
    assert set(seqio.MixtureRegistry.names()) == complete


def test_rates_are_proportional_up_to_the_cap(seqio, vocabulary):
    sets = ("glue_mnli", "glue_qqp", "glue_qnli")
    Benchmark(sets=sets, data_dir="d", mixture="three_sources").register(vocabulary)
    total = 2 * 2**18 + 104_743
    expected = {"glue_mnli": 2**18 / total, "glue_qqp": 2**18 / total, "glue_qnli": 104_743 / total}
    assert mixture_rates("three_sources") == pytest.approx(expected)
    with pytest.raises(
        UserError, match="'three_sources' is registered already, of glue_mnli, glue_"
    ):
        Benchmark(sets=("glue_rte",), data_dir="d", mixture="three_sources").register(vocabulary)


def test_registering_twice(seqio, tmp_path):
    """Families that overlap are fine while they mean the same by a name."""
    here = str(tmp_path)
    wide = Benchmark(sets=("glue",), data_dir=here)
    narrow = Benchmark(sets=("glue_rte",), data_dir=here)
    register_families([wide, narrow, wide], ByteVocabulary())
    register_families([Benchmark(sets=("glue",), data_dir=here)], ByteVocabulary())
    for other in ({"text_format": "t5"}, {"data_dir": str(tmp_path / "b")}, {"source": "tfds"}):
        family = Benchmark(**{"sets": ("glue_wnli", "glue_rte"), "data_dir": here, **other})
        with pytest.raises(UserError, match="'glue_rte' is registered in this process already, as"):
            register_families([family], ByteVocabulary())
    with pytest.raises(UserError, match="'glue_cola' .* already, with another vocabulary"):
        register_families([Benchmark(sets=("glue_cola",), data_dir=here)], ByteVocabulary(3))


def test_a_refused_family_registers_nothing(seqio, vocabulary):
    Benchmark(sets=("glue_rte",), data_dir="d").register(vocabulary)
    with pytest.raises(UserError, match="registered in this process already"):
        Benchmark(sets=("glue_wnli", "glue_rte"), data_dir="e").register(vocabulary)
    assert set(seqio.TaskRegistry.names()) == {"glue_rte"}


def test_two_families_in_one_process(seqio, write, data_dir, tmp_path):
    """One set from files in ATTEMPT's format, another in T5's."""
    write("RTE/train.tsv", HEAD + ROW)
    write("WNLI/train.tsv", HEAD + "0\ta\tb\t1\n")
    data = Data(
        {"inputs": 64, "targets": 16},
        store_root=str(tmp_path / "stores"),
        families=(
            Benchmark(sets=("glue_rte",), data_dir=str(data_dir)),
            Benchmark(sets=("glue_wnli",), data_dir=str(data_dir), text_format="t5"),
        ),
    )
    register_families(data.families, ByteVocabulary())
    assert data.open("glue_rte", "train")[0].targets_text == "0"
    assert data.open("glue_wnli", "train")[0].targets_text == "entailment"


def test_two_sets_in_folders_of_one_name(write, register):
    """GLUE's and SuperGLUE's RTE, unpacked in one place."""
    write("RTE/train.tsv", f"{HEAD}{ROW}\n")
    write(
        "RTE/train.jsonl",
        '{"premise": "p", "hypothesis": "h", "label": "not_entailment", "idx": 0}',
    )
    tasks = register("glue_rte", "super_glue_rte")
    assert tasks.texts("glue_rte", "train") == [("rte sentence1: a sentence2: b", "0")]
    expected = ("superglue-rte premise: p hypothesis: h", "1")
    assert tasks.texts("super_glue_rte", "train") == [expected]


def test_a_changed_file_makes_a_new_store(seqio, write, register):
    path = write("RTE/train.tsv", HEAD + ROW)
    stores = register("glue_rte")
    first = stores.store("glue_rte", "train")
    os.utime(path, (1, 1))
    assert stores.store("glue_rte", "train").folder == first.folder
    write("RTE/README.md", "not of the data")
    assert stores.store("glue_rte", "train").folder == first.folder
    write("RTE/train.tsv", HEAD + ROW.replace("\ta\t", "\tA\t"))
    changed = stores.store("glue_rte", "train")
    assert changed.folder != first.folder
    assert changed[0].inputs_text == "rte sentence1: A sentence2: b"


def test_the_store_is_found_again_by_another_registration(seqio, write, register):
    write("RTE/train.tsv", HEAD + ROW)
    first = register("glue_rte").store("glue_rte", "train").folder
    seqio.TaskRegistry.reset()
    assert register("glue_rte").store("glue_rte", "train").folder == first
    seqio.TaskRegistry.reset()
    assert register("glue_rte", text_format="t5").store("glue_rte", "train").folder != first


@pytest.mark.parametrize("form", ["tfds", "saved", "parquet"])
def test_a_changed_stored_file_makes_a_new_store(form, seqio, put, register, data_dir):
    rows = [{"sentence1": "a", "sentence2": "b", "label": n, "idx": n} for n in (0, 1)]
    source = put("glue_rte", {"records": {"train": rows}}, form)
    stores = register("glue_rte", source=source)
    first = stores.store("glue_rte", "train").folder
    assert stores.store("glue_rte", "train").folder == first
    (data_dir / "glue").exists() and (data_dir / "glue").rename(data_dir / "old")
    (data_dir / "nyu-mll").exists() and (data_dir / "nyu-mll").rename(data_dir / "older")
    put("glue_rte", {"records": {"train": rows[::-1]}}, form)
    assert stores.store("glue_rte", "train").folder != first


def test_the_newest_version_of_tfds_is_read(seqio, put, register, data_dir):
    rows = [{"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}] * 2
    put("glue_rte", {"records": {"train": rows}}, "tfds")
    folder = data_dir / "glue" / "rte"
    (folder / "2.0.0").rename(folder / "10.0.0")
    put("glue_rte", {"records": {"train": rows[:1]}}, "tfds")
    (folder / "1.0.0.incomplete").mkdir()
    assert len(register("glue_rte", source="tfds").store("glue_rte", "train")) == 2


@pytest.mark.parametrize("task", OURS)
def test_tfds_publishes_the_canonical_schema(task):
    """Examples that TFDS makes up from its schema are what the data set expects."""
    import_seqio()
    import tensorflow_datasets as tfds

    data_set = DATA_SETS[task]
    with tfds.testing.mock_data(num_examples=3):
        records = list(read_tfds("train", name=data_set.tfds, directory=None))
    assert len(records) == 3
    for place, record in records:
        assert isinstance(place, Place) and str(place).startswith(f"TFDS {data_set.tfds} ")
        fields = {**data_set.fields, **({"label": "number"} if task == "glue_stsb" else {})}
        assert set(checked(place, record, fields)) == set(data_set.fields)
    features = dict(tfds.builder(data_set.tfds, try_gcs=False).info.features.items())
    labels = features.get("label")
    if isinstance(labels, tfds.features.ClassLabel):
        assert tuple(labels.names) == data_set.fields["label"]


def test_what_is_known_of_a_task(seqio, vocabulary):
    Benchmark(sets=("glue_rte",), data_dir="d").register(vocabulary)
    about = about_task("glue_rte")
    assert about.title == "RTE" and about.sizes == {"train": 2_490, "validation": 277}
    assert "source='folder'" in about.origin and "dagan2005rte" in about.citation
