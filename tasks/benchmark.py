"""The paper's data sets as one family of seqio tasks, registered with the backbone's vocabulary.

data.Data.families = (@benchmark.Benchmark(),)
benchmark.Benchmark.data_dir = "/data/benchmark"
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mpt_jax.data.generated import generated_dataset
from mpt_jax.data.tasks import MIXING_CAP, About, import_seqio
from mpt_jax.errors import UserError, unknown_name
from mpt_jax.tasks import e2e, glue, mrqa, others, squad, super_glue, web_nlg
from mpt_jax.tasks.data_set import DataSet, Field, Text, Write, checked
from mpt_jax.tasks.metrics import metric_functions, postprocessors
from mpt_jax.tasks.readers import ReadSplit, open_folder
from mpt_jax.tasks.stored_readers import open_datasets, open_tfds

SOURCES: dict[str, Callable[[DataSet, str | None], ReadSplit]] = {
    "folder": open_folder,
    "tfds": open_tfds,
    "datasets": open_datasets,
}

DATA_SETS: dict[str, DataSet] = {
    data_set.task: data_set
    for data_set in (
        *glue.DATA_SETS,
        *super_glue.DATA_SETS,
        squad.SQUAD,
        *mrqa.DATA_SETS,
        *others.DATA_SETS,
        e2e.E2E,
        web_nlg.WEB_NLG,
    )
}

#: Registered as soon as all of their tasks are.
MIXTURES: dict[str, tuple[str, ...]] = {
    "mpt_sources": (
        "glue_mnli", "glue_qnli", "glue_qqp", "glue_sst2", "squad", "super_glue_record",
    ),
    "glue": (
        "glue_mnli", "glue_qqp", "glue_qnli", "glue_sst2", "glue_stsb", "glue_mrpc", "glue_rte",
        "glue_cola",
    ),
    "super_glue": (
        "super_glue_multirc", "super_glue_boolq", "super_glue_wic", "super_glue_wsc",
        "super_glue_cb",
    ),
    "mrqa": ("mrqa_natural_questions", "mrqa_hotpotqa", "mrqa_searchqa", "mrqa_newsqa"),
    "others": ("winogrande", "yelp_polarity", "scitail", "paws"),
    "nlg": ("e2e_nlg", "web_nlg"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BenchmarkAbout(About):
    """And the settings under which the task was registered."""

    settings: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Which data sets, from where, written how.

    Attributes:
        source: "folder" (files as the data sets are distributed), "tfds", or "datasets" (what
            Hugging Face's `datasets` saved to disk, or Parquet files as on its hub).
        data_dir: the folder of all of them; of TFDS's it may be None, and then TFDS downloads what
            it lacks. With a folder, nothing is ever downloaded.
        text_format: "attempt" or "t5", see `mpt_jax.tasks.text_formats`.
        sets: names of tasks and mixtures; none for every data set that is known.
        mixture: a name for the mixture of exactly these sets, if they are to be one.
        faulty_winogrande: write WinoGrande's first option in both places, as the code behind most
            published numbers does ("attempt" only).
    """

    source: str = "folder"
    data_dir: str | None = None
    text_format: str = "attempt"
    sets: str | Sequence[str] = ()
    mixture: str | None = None
    faulty_winogrande: bool = False

    def __post_init__(self) -> None:
        # A list, as gin files may have it, has no hash.
        sets = (self.sets,) if isinstance(self.sets, str) else tuple(self.sets)
        object.__setattr__(self, "sets", sets)

    def names(self) -> tuple[str, ...]:
        """The tasks, each once.

        Raises:
            UserError: an unknown set.
        """
        found: list[str] = []
        for name in self.sets or DATA_SETS:
            if name not in DATA_SETS and name not in MIXTURES:
                raise unknown_name("set of the benchmark", name, [*DATA_SETS, *MIXTURES])
            found += MIXTURES.get(name, (name,))
        return tuple(dict.fromkeys(found))

    def split_rules(self) -> Mapping[str, str]:
        return {name: DATA_SETS[name].split_rule for name in self.names()}

    def register(self, vocabulary: Any) -> None:
        """Adds the tasks, and the mixtures that are complete with them, to seqio's registries.

        A task that another `Benchmark` registered with the same settings is left as it is.

        Raises:
            UserError: an unknown source, text format or set, no data folder where one is needed, or a
                task that is registered already with other settings.
        """
        if self.source not in SOURCES:
            raise unknown_name("source of data", self.source, SOURCES)
        names = self.names()
        tasks = {name: self._task(self._data_set(name), vocabulary) for name in names}
        seqio = import_seqio()
        before = set(names).intersection(seqio.TaskRegistry.names())
        for name in sorted(before):
            self._check_same(seqio.TaskRegistry.get(name), vocabulary)
        mixtures = MIXTURES | ({self.mixture: names} if self.mixture else {})
        _check_mixtures(mixtures)
        for name in names:
            if name not in before:
                seqio.TaskRegistry.add(name, **tasks[name])
        _add_mixtures(mixtures)

    def _settings(self) -> tuple[Any, ...]:
        return (self.source, self.data_dir, self.text_format, self.faulty_winogrande)

    def _data_set(self, name: str) -> DataSet:
        if self.faulty_winogrande and name == others.FAULTY_WINOGRANDE.task:
            return others.FAULTY_WINOGRANDE
        return DATA_SETS[name]

    def _task(self, data_set: DataSet, vocabulary: Any) -> dict[str, Any]:
        """What seqio registers of a data set."""
        seqio = import_seqio()
        if self.text_format not in data_set.formats:
            raise unknown_name("text format", self.text_format, data_set.formats)
        text_format = data_set.formats[self.text_format]
        read = functools.partial(
            examples_dataset,
            read=SOURCES[self.source](data_set, self.data_dir),
            fields=dict(data_set.fields),
            write=text_format.write,
            extras=dict(data_set.extras),
        )
        source = seqio.FunctionDataSource(
            read, splits=tuple(data_set.sizes), num_input_examples=dict(data_set.sizes)
        )
        source.about = BenchmarkAbout(
            title=data_set.title,
            origin=f"source={self.source!r}, data_dir={self.data_dir!r}, text_format={self.text_format!r}",
            sizes=data_set.sizes,
            split_rule=data_set.split_rule,
            licence=data_set.licence,
            homepage=data_set.homepage,
            citation=data_set.citation,
            settings=self._settings(),
        )
        postprocess = getattr(postprocessors, data_set.postprocess)
        if text_format.labels:
            postprocess = functools.partial(postprocess, labels=text_format.labels)
        feature = seqio.Feature(vocabulary=vocabulary, add_eos=True)
        return {
            "source": source,
            "preprocessors": [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            "output_features": {"inputs": feature, "targets": feature},
            "postprocess_fn": postprocess,
            "metric_fns": metric_functions(data_set.metrics),
        }

    def _check_same(self, task: Any, vocabulary: Any) -> None:
        before = getattr(getattr(task.source, "about", None), "settings", None)
        same = task.output_features["inputs"].vocabulary == vocabulary
        if before != self._settings() or not same:
            raise UserError(
                f"Task {task.name!r} is registered in this process already, "
                + (f"as {before}" if same else "with another vocabulary")
                + "; now it is asked for as (source, data_dir, text_format, faulty_winogrande) = "
                f"{self._settings()}. "
                "Start a new process, or give the families different `sets`."
            )


def _check_mixtures(mixtures: Mapping[str, tuple[str, ...]]) -> None:
    """Raises UserError if one is registered with other tasks."""
    registry = import_seqio().MixtureRegistry
    for name, members in mixtures.items():
        if name in registry.names():
            before = sorted(task.name for task in registry.get(name).tasks)
            if before != sorted(members):
                raise UserError(
                    f"Mixture {name!r} is registered already, of {', '.join(before)}; give this one "
                    "another name in `mixture`."
                )


def _add_mixtures(mixtures: Mapping[str, tuple[str, ...]]) -> None:
    """Adds what is complete; the rates are T5's, by the sizes of the published train sets."""
    seqio = import_seqio()
    tasks = set(seqio.TaskRegistry.names())
    for name, members in mixtures.items():
        if name not in seqio.MixtureRegistry.names() and tasks.issuperset(members):
            rates = [(task, min(DATA_SETS[task].sizes["train"], MIXING_CAP)) for task in members]
            seqio.MixtureRegistry.add(name, rates)


def examples_dataset(
    split: str,
    shuffle_files: bool,
    seed: int | None = None,
    *,
    read: ReadSplit,
    fields: dict[str, Field],
    write: Write,
    extras: dict[str, str],
) -> Any:
    """seqio's `dataset_fn`: a `tf.data.Dataset` of a split's texts, always in the order of the files."""
    del shuffle_files, seed
    kinds = {"inputs": "text", "targets": "text", **extras}
    rows = functools.partial(example_rows, split, read, fields, write)
    return generated_dataset(rows, {name: kind == "texts" for name, kind in kinds.items()})


def example_rows(
    split: str, read: ReadSplit, fields: dict[str, Field], write: Write
) -> Iterator[dict[str, Any]]:
    """The texts of a split as seqio takes them."""
    for place, record in read(split):
        for text in write(checked(place, record, fields)):
            yield row(text)


def row(text: Text) -> dict[str, Any]:
    return {"inputs": text.inputs, "targets": text.targets, **text.extras}
