"""What the installed `datasets` saves is read; the other tests write the layouts themselves."""

import pytest

datasets = pytest.importorskip(
    "datasets", reason="needs Hugging Face's datasets: the optional dependencies `parity`"
)

ROWS = [{"sentence1": f"a {n}", "sentence2": 'b "c" é', "label": n % 2, "idx": n} for n in range(5)]
EXPECTED = [(f'rte sentence1: a {n} sentence2: b "c" é', str(n % 2)) for n in range(5)]


@pytest.fixture
def saved_twice():
    labels = datasets.ClassLabel(names=["entailment", "not_entailment"])
    text, index = datasets.Value("string"), datasets.Value("int32")
    features = datasets.Features(
        {"sentence1": text, "sentence2": text, "label": labels, "idx": index}
    )
    split = datasets.Dataset.from_list(ROWS, features=features)
    return datasets.DatasetDict({"train": split, "validation": split.select([3, 1])})


@pytest.mark.parametrize("shards", [1, 2])
def test_save_to_disk(shards, saved_twice, data_dir, register):
    number = {"train": shards, "validation": 1}
    saved_twice.save_to_disk(data_dir / "glue" / "rte", num_shards=number)
    tasks = register("glue_rte", source="datasets")
    assert tasks.texts("glue_rte", "train") == EXPECTED
    assert tasks.texts("glue_rte", "validation") == [EXPECTED[3], EXPECTED[1]]


def test_parquet(saved_twice, data_dir, register):
    folder = data_dir / "nyu-mll" / "glue" / "rte"
    folder.mkdir(parents=True)
    saved_twice["train"].to_parquet(folder / "train-00000-of-00001.parquet")
    assert register("glue_rte", source="datasets").texts("glue_rte", "train") == EXPECTED
