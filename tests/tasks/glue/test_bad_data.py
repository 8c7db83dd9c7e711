"""Files that are missing, or not as a data set should be: named with the file and the line."""

import json

import pytest

from mpt_jax.errors import UserError

HEAD = "index\tsentence1\tsentence2\tlabel\n"
GOOD = HEAD + "0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index\tsentence1\tlabel\n0\ta\tentailment\n",
         r"RTE/train\.tsv, line 1: there is no column 'sentence2'; the columns are 'index', "),
        ("", r"RTE/train\.tsv, line 1: there is no column 'label', 'sentence1', 'sentence2'"),
        (HEAD + "0\ta\tb\tentailment\n1\tc\td\n",
         r"RTE/train\.tsv, line 3: 3 columns; expected at least 4, the last of them 'label'"),
        (HEAD + "0\ta\tb\tneutral\n",
         r"RTE/train\.tsv, line 2: 'label' is 'neutral'; expected one of the labels 0 \(entailment\), "
         r"1 \(not_entailment\)"),
        (HEAD + "0\ta\tb\t2\n", r"line 2: 'label' is '2'; expected one of the labels"),
        (HEAD + "0\ta\tb\t-1\n", r"line 2: 'label' is '-1'; expected one of the labels"),
        (HEAD + "0\ta\tb\t\n", r"line 2: 'label' is ''; expected one of the labels"),
        (GOOD.encode() + b"2\tcaf\xe9\tb\tentailment\n",
         r"RTE/train\.tsv, line 4: byte 6 of the line, 0xe9, is not UTF-8"),
    ],
)  # fmt: skip
def test_a_table(content, message, write, register):
    write("RTE/train.tsv", content)
    with pytest.raises(UserError, match=message):
        register("glue_rte").store("glue_rte", "train")


@pytest.mark.parametrize("score", ["5.1", "-0.2", "nan", "four"])
def test_a_similarity_that_is_none(score, write, register):
    head = "index\tsentence1\tsentence2\tscore\n"
    write("STS-B/train.tsv", f"{head}0\ta\tb\t5.000\n1\tc\td\t{score}\n")
    with pytest.raises(UserError, match=r"STS-B/train\.tsv, line 3: .*a number from 0 to 5"):
        register("glue_stsb").store("glue_stsb", "train")


BOOLQ = {"question": "q", "passage": "p", "idx": 0, "label": True}
MULTIRC = {"idx": 0, "passage": {"text": "t", "questions": [{"question": "q", "idx": 0}]}}


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("boolq", "{", r"BoolQ/train\.jsonl, line 2: not JSON \(.*, column \d+\)"),
        ("boolq", "[1]", r"line 2: a JSON list; expected an object"),
        ("boolq", json.dumps({**BOOLQ, "label": 2}), r"line 2: 'label' is 2; expected one of"),
        ("boolq", json.dumps({**BOOLQ, "label": None}), r"line 2: 'label' is None; expected one of"),
        ("boolq", json.dumps({**BOOLQ, "passage": 3}), r"line 2: 'passage' is 3; expected a text"),
        ("boolq", json.dumps({**BOOLQ, "passage": "\ud800"}), r"line 2: 'passage' is .*; expected a text"),
        ("boolq", json.dumps({"question": "q", "label": True}),
         r"line 2: there is no field 'passage', only 'question', 'label'"),
        ("multirc", json.dumps(MULTIRC), r"MultiRC/train\.jsonl, line 2: not laid out as .*'answers'"),
        ("wsc", json.dumps(BOOLQ), r"WSC/train\.jsonl, line 2: not laid out as .*'target'"),
    ],
)  # fmt: skip
def test_json_lines(task, line, message, write, register):
    folder = {"boolq": "BoolQ", "multirc": "MultiRC", "wsc": "WSC"}[task]
    good = {"boolq": BOOLQ, "multirc": {"idx": 0, "passage": {"text": "", "questions": []}}}
    write(f"{folder}/train.jsonl", f"{json.dumps(good[task]) if task in good else ''}\n{line}\n")
    with pytest.raises(UserError, match=message):
        register(f"super_glue_{task}").store(f"super_glue_{task}", "train")


def test_a_split_without_its_file(write, register):
    write("RTE/train.tsv", GOOD)
    with pytest.raises(UserError, match=r"No file .*RTE/dev\.tsv for the split 'validation'; its"):
        register("glue_rte").store("glue_rte", "validation")


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("folder", r"RTE/\(dev\.tsv\|train\.tsv\), .*glue_data/RTE"),
        ("tfds", r"data/glue/rte/<version>/features\.json"),
        ("datasets", r"data/nyu-mll/glue/rte, .*/glue/rte, .*/glue_rte"),
    ],
)
def test_a_set_that_is_not_there(source, place, register):
    tasks = register("glue_rte", source=source)
    with pytest.raises(
        UserError, match=rf"no file of RTE in the data folder\. Looked for: .*{place}"
    ):
        tasks.store("glue_rte", "train")


ROWS = [{"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}]


@pytest.mark.parametrize("form", ["saved", "parquet"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": -1}, r", row 2: 'label' is -1; expected one of"),
        ({"label": None}, r", row 2: 'label' is None; expected one of"),
        ({"sentence2": None}, r", row 2: 'sentence2' is None; expected a text"),
    ],
)
def test_stored_rows(form, change, message, put, register):
    rows = [*ROWS, {**ROWS[0], **change}]
    source = put(
        "glue_rte", {"records": {"train": rows if form == "saved" else [ROWS[0], *rows]}}, form
    )
    if form == "parquet":
        message = f"train-00001-of-00002.parquet{message}"
    with pytest.raises(UserError, match=message):
        register("glue_rte", source=source).store("glue_rte", "train")


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_stored_table_without_a_column(form, put, register):
    rows = [{"sentence1": "a", "label": 0}, {"sentence1": "b", "label": 1}]
    source = put("glue_rte", {"records": {"train": rows}}, form)
    with pytest.raises(UserError, match="row 1: there is no field 'sentence2', only 'sentence1'"):
        register("glue_rte", source=source).store("glue_rte", "train")


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "train/data.arrow"])
def test_a_stored_file_that_is_damaged(name, write, register):
    if name.endswith(".arrow"):
        write(
            "glue/rte/train/state.json", json.dumps({"_data_files": [{"filename": "data.arrow"}]})
        )
    write(f"glue/rte/{name}", b"nothing of the kind")
    with pytest.raises(UserError, match=rf"{name} cannot be read: "):
        register("glue_rte", source="datasets").store("glue_rte", "train")


def test_a_stored_split_that_is_not_there(put, register):
    for form in ("tfds", "parquet"):
        put("glue_rte", {"records": {"train": ROWS * 2}}, form)
    with pytest.raises(UserError, match="has no split 'validation'; there are train"):
        register("glue_rte", source="datasets").store("glue_rte", "validation")


def test_a_prepared_split_that_is_not_there(put, register):
    put("glue_rte", {"records": {"train": ROWS * 2}}, "tfds")
    with pytest.raises(
        UserError, match="glue/rte/2.0.0 has no split 'validation'; there are train"
    ):
        register("glue_rte", source="tfds").store("glue_rte", "validation")


def test_a_prepared_file_that_is_damaged(put, register, data_dir):
    put("glue_rte", {"records": {"train": ROWS * 2}}, "tfds")
    for path in (data_dir / "glue/rte/2.0.0").glob("*tfrecord*"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="TFDS cannot read glue/rte from .*glue/rte/2.0.0: "):
        register("glue_rte", source="tfds").store("glue_rte", "train")


def test_the_source_of_an_error_stays_readable(write, register, tmp_path):
    """TensorFlow's traceback, a page long, is not what the user sees."""
    write("RTE/train.tsv", HEAD + "0\ta\tb\t„2“\n")
    with pytest.raises(UserError) as caught:
        register("glue_rte").store("glue_rte", "train")
    assert "„2“" in str(caught.value) and "Traceback" not in str(caught.value)
    assert not [path for path in (tmp_path / "stores").rglob("*") if path.is_file()]
