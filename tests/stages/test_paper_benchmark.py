"""`mpt paper` on the benchmark's own data sets, from files in the form in which they are distributed."""

import gzip
import json
import re
from pathlib import Path

import pytest

from mpt_jax.cli import main

HELD_OUT = 1000  # taken from large training sets for validation
TABLE = Path(__file__).with_name("paper_benchmark.gin")


def write_tsv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, row)) for row in rows]
    path.write_text("\n".join([*(["\t".join(header)] if header else []), *lines]) + "\n")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Stand-ins in the true layouts: CoLA, SST-2, RTE, Natural Questions, E2E."""
    folder = tmp_path_factory.mktemp("benchmark")
    for name, count in (("train", 40), ("dev", 12)):
        cola = [("gj04", i % 2, "" if i % 2 else "*", f"They sang song {i}.") for i in range(count)]
        write_tsv(folder / "CoLA" / f"{name}.tsv", None, cola)
        rte = [
            (i, f"A man ate {i} apples.", f"A man ate {i + i % 3} apples.",
             "not_entailment" if i % 3 else "entailment")
            for i in range(count)
        ]  # fmt: skip
        write_tsv(folder / "RTE" / f"{name}.tsv", ("index", "sentence1", "sentence2", "label"), rte)
    for name, count in (("train", HELD_OUT + 20), ("dev", 12)):
        sst = [(f"film {i} is {'good' if i % 2 else 'bad'}", i % 2) for i in range(count)]
        write_tsv(folder / "SST-2" / f"{name}.tsv", ("sentence", "label"), sst)
        questions = [
            {"context": f"Town {i} lies on river {i}.",
             "qas": [{"qid": f"{name}{i}", "question": f"Where is town {i}?", "answers": [f"river {i}"]}]}
            for i in range(count)
        ]  # fmt: skip
        lines = [json.dumps(line) for line in ({"header": {"dataset": "NQ"}}, *questions)]
        path = folder / "mrqa" / name / "NaturalQuestionsShort.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    e2e = folder / "e2e-dataset"
    e2e.mkdir()
    for name, count in (("trainset", 24), ("devset", 8), ("testset_w_refs", 8)):
        pairs = [f'"name[Inn {i // 2}], food[{"fish" if i % 4 else "cake"}]",Inn {i // 2} has food {i}.'
                 for i in range(count)]  # fmt: skip
        (e2e / f"{name}.csv").write_text("\n".join(["mr,ref", *pairs]) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("own_benchmark")
def test_from_the_files_to_the_table(toy, data_dir, tmp_path, capsys):
    folder = tmp_path / "runs"
    given = {"T5_TINY": str(toy.backbone), "STORE_DIR": str(toy.stores), "DATA_DIR": str(data_dir)}
    words = ["paper", str(TABLE), f"--model_dir={folder}"]
    words += [f"--gin.{name}={value!r}" for name, value in given.items()]
    assert main([*words, "--only=mpt/glue_rte"]) == 0  # one cell and what it needs
    assert main([*words, "--status"]) == 0
    assert re.search(r"mpt/glue_rte\W+done", capsys.readouterr().out)
    assert main(words) == 0  # the others

    content = json.loads((folder / "tables" / "glue" / "table.json").read_text())
    columns = {column["title"]: column for column in content["columns"]}
    assert {t: (c["split"], c["num_examples"]) for t, c in columns.items()} == {
        "RTE": ("test", 6), "NQ": ("test", 12), "E2E BLEU": ("test", 6),
    }  # fmt: skip
    assert columns["RTE"]["majority"] == pytest.approx(100 * 4 / 6)
    assert all(column["majority"] > 0 for column in columns.values())
    found = {line["method"]: line["ours"] for line in content["lines"] if line["ours"]}
    assert set(found) == {"prompt_tuning", "mpt", "mpt_multi"}
    for line in found.values():
        assert set(line["cells"]) == set(columns)
        assert all(len(cell["scores"]) == 2 for cell in line["cells"].values())
