# ruff: noqa: E501 (rows of Markdown tables are one line)
"""Writes docs/data_sets.md from what the data sets say of themselves.

python docs/write_data_sets.py
"""

from pathlib import Path

from mpt_jax.tasks.benchmark import DATA_SETS, MIXTURES
from mpt_jax.tasks.data_set import DataSet

PAGE = Path(__file__).with_name("data_sets.md")
HEAD = """# The paper's data sets

Made by `python docs/write_data_sets.py` from `mpt_jax/tasks/`; a test compares. `mpt tasks NAME` shows the same of
one task on your files, with token lengths and an example as the model sees it.

**Licences are given as we know them, from memory and not from the publishers' pages: check before use.** So are the
homepages. Nothing of the data is part of mpt_jax.

## Where the files are read

`runs/benchmark.gin` stands behind a stage's file and registers all tasks:

    mpt tasks glue_rte --gin_file=models/embedded.gin --gin_file=runs/tasks.gin --gin_file=runs/benchmark.gin \\
        --gin.DATA_DIR="'/data/benchmark'"
    mpt teach --gin_file=my_t5.gin --gin_file=runs/teach.gin --gin_file=runs/benchmark.gin --model_dir=runs/glue \\
        --gin.DATA_DIR="'/data/benchmark'" --gin.MIXTURE_OR_TASK_NAME="'glue'" --gin.TRAIN_STEPS=1000

| `DATA_SOURCE` | what lies in `DATA_DIR` |
| --- | --- |
| `"folder"` | the files as each set is distributed, in the folders named below; nothing is downloaded |
| `"tfds"` | a prepared TFDS folder; `DATA_DIR = None` lets TFDS download what it lacks |
| `"datasets"` | what Hugging Face's `datasets` saved with `save_to_disk`, or Parquet files as on its hub; below a folder of the hub's name or its last parts |

`TEXT_FORMAT` is `"attempt"` (as ATTEMPT and MPT, with digits for labels) or `"t5"` (T5's own). `SETS` takes some sets
or mixtures, `SETS_MIXTURE` names a mixture of exactly these. `--gin.benchmark.Benchmark.faulty_winogrande=True`
repeats ATTEMPT's doubled option. Questions and inputs of generation are decoded once and scored against all answers
or references. A task's first metric chooses the step that is kept and stands in tables; all are in `results.json`.

Metrics of generated text need `pip install -e '.[benchmark]'`. METEOR is a metric for your own tables
(`TABLE_METRIC = "meteor"`) where NLTK finds a WordNet (`NLTK_DATA`); it is none of E2E and WebNLG, since that of papers
is a Java program and gives other numbers.

## Splits

Sizes below are those of the published splits with public labels. What trains, validates and tests follows from the
rule (`mpt_jax/data/splits.py`; TFDS keeps another order, so halves and few-shot draws differ from the other sources):

| rule | |
| --- | --- |
| `official` | the set's own three splits |
| `halved_validation` | half of the validation set validates, the other half tests (shuffled with seed 42) |
| `held_out_train` | 1,000 training examples validate (seed 42), the validation set tests |
| `mnli` | the mismatched validation set validates, the matched one tests |
| `yelp` | 1,000 training examples validate and the next 100,000 train |
| `web_nlg_seen` | the official splits, of the test set the categories that training has |
"""


def page() -> str:
    """The whole page."""
    mixtures = "".join(
        f"| `{name}` | {', '.join(f'`{task}`' for task in tasks)} |\n"
        for name, tasks in MIXTURES.items()
    )
    rows = "".join(_row(data_set) for data_set in DATA_SETS.values())
    sections = "".join(_section(data_set) for data_set in DATA_SETS.values())
    return (
        f"{HEAD}\n## Mixtures\n\n| mixture | tasks |\n| --- | --- |\n{mixtures}\n"
        "## The sets\n\n| task | data set | metrics | split rule | licence, as we know it |\n"
        f"| --- | --- | --- | --- | --- |\n{rows}{sections}"
    )


def _row(data_set: DataSet) -> str:
    metrics = ", ".join(data_set.metrics)
    return (
        f"| [`{data_set.task}`](#{data_set.task}) | {data_set.title} | {metrics} | "
        f"`{data_set.split_rule}` | {data_set.licence} |\n"
    )


def _section(data_set: DataSet) -> str:
    sizes = ", ".join(f"{split} {size:,}" for split, size in data_set.sizes.items())
    lines = [
        f"{data_set.title}, <{data_set.homepage}>", "",
        f"- Licence, as we know it (check before use): {data_set.licence}",
        f"- Sizes: {sizes}; rule `{data_set.split_rule}`",
        f"- Metrics: {', '.join(data_set.metrics)}",
        *_files(data_set),
        f"- TFDS: `{data_set.tfds}`; hub: `{data_set.hub}`",
    ]  # fmt: skip
    body = "\n".join(lines)
    return f"\n### {data_set.task}\n\n{body}\n\n```bibtex\n{data_set.citation.strip()}\n```\n"


def _files(data_set: DataSet) -> list[str]:
    """The layouts that are tried in turn, each with the folders that may hold it."""
    found = []
    for number, layout in enumerate(data_set.layouts):
        folders = ", ".join(
            f"`{folder}/`" if folder else "`DATA_DIR` itself" for folder in layout.folders
        )
        by_files: dict[tuple[str, ...], list[str]] = {}
        for split, files in layout.files.items():
            by_files.setdefault(files, []).append(split)
        files = "; ".join(
            f"{', '.join(splits)}: {' and '.join(f'`{name}`' for name in names)}"
            for names, splits in by_files.items()
        )
        found.append(f"- {'Or files' if number else 'Files'} in {folders}: {files}")
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
