"""MRQA 2019 (Fisch et al. 2019): six question answering data sets in one format.

The paper's targets are Natural Questions, HotpotQA, SearchQA and NewsQA; the shared task's TriviaQA and
SQuAD come with them. A file is gzipped JSON lines, the first of which is a header:

    {"header": {"dataset": "HotpotQA", "split": "train"}}
    {"context": "[PAR] [TLE] Emma [SEP] ...", "qas": [{"qid": "...", "question": "...", "answers": ["..."]}]}

`train/` and `dev/` hold files of the same names. "attempt" writes the name of the data set as MPT's
loader does; ATTEMPT itself writes "squad" in front of them all.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.tasks import squad
from mpt_jax.tasks.data_set import DataSet, Layout, Located, Place, Stored
from mpt_jax.tasks.readers import json_lines

HOMEPAGE = "https://mrqa.github.io/2019/shared.html"
FIELDS = {"qid": "text", "context": "text", "question": "text", "answers": "texts"}

_MRQA_CITATION = """@inproceedings{fisch2019mrqa,
  title = {{MRQA} 2019 Shared Task: Evaluating Generalization in Reading Comprehension},
  author = {Fisch, Adam and Talmor, Alon and Jia, Robin and Seo, Minjoon and Choi, Eunsol and Chen, Danqi},
  booktitle = {Proceedings of the 2nd Workshop on Machine Reading for Question Answering},
  year = {2019},
  url = {https://aclanthology.org/D19-5801}
}

"""


def parse_mrqa(paths: tuple[str, ...], split: str) -> Iterator[Located]:
    """The questions of the shared task's files; several may share a line, and with it a context.

    Raises:
        UserError: a file that cannot be unpacked, no header, a line of another structure, or a
            question without an answer; with file and line.
    """
    del split
    for path in paths:
        lines = json_lines(path)
        for place, line in lines:
            if "header" not in line:
                raise UserError(
                    f"{place}: there is no header; a file of MRQA 2019 starts with a line like "
                    '{"header": {"dataset": "HotpotQA", "split": "train"}}.'
                )
            break
        for place, line in lines:
            for question in _questions(place, line):
                answers = squad.right_answers(place, question.get("answers"))
                yield place, {**question, "context": line["context"], "answers": answers}


def _questions(place: Place, line: Mapping[str, Any]) -> list[dict[str, Any]]:
    questions = line.get("qas")
    if (
        not isinstance(line.get("context"), str)
        or not isinstance(questions, list)
        or not all(isinstance(question, dict) for question in questions)
    ):
        raise UserError(
            f"{place}: the fields are {', '.join(map(repr, line))}; expected 'context', a text, and "
            "'qas', a list of questions."
        )
    return questions


def stored_questions(
    records: Iterator[Located], split: str, *, subsets: tuple[str, ...] = ()
) -> Iterator[Located]:
    """The questions of TFDS and the hub.

    Args:
        subsets: names of the one that is wanted of those that the hub keeps in one table; none for all.

    Raises:
        UserError: a question without an answer, or not one record of the subset.
    """
    del split
    others: dict[str, Place] = {}
    found = False
    for place, record in records:
        if subsets and record["subset"] not in subsets:
            others.setdefault(record["subset"], place)
            continue
        found = True
        yield place, {**record, "answers": squad.right_answers(place, record["answers"])}
    if others and not found:
        raise UserError(
            f"No record has the subset {' or '.join(map(repr, subsets))}; there are "
            f"{', '.join(f'{name!r} ({place})' for name, place in others.items())}."
        )


def _mrqa(
    task: str,
    *,
    title: str,
    attempt: str,
    files: tuple[str, ...],
    tfds: str,
    sizes: tuple[int, int],
    licence: str,
    citation: str,
) -> DataSet:
    train, validation = sizes
    names = [f"{name}.jsonl.gz" for name in files]
    return DataSet(
        task=task,
        title=f"{title} (MRQA 2019)",
        fields=FIELDS,
        sizes={"train": train, "validation": validation},
        layouts=tuple(
            Layout(
                folders=("mrqa", "MRQA", ""),
                files={"train": (f"train/{name}",), "validation": (f"dev/{name}",)},
                parse=parse_mrqa,
            )
            for name in names
        ),
        tfds=f"mrqa/{tfds}",
        hub="mrqa-workshop/mrqa/plain_text",
        stored={
            "tfds": Stored(conform=stored_questions),
            "datasets": Stored(conform=functools.partial(stored_questions, subsets=files)),
        },
        formats=squad.question_answering(attempt),
        extras=squad.EXTRAS,
        metrics=squad.METRICS,
        postprocess=squad.POSTPROCESS,
        split_rule="held_out_train",
        licence=licence,
        citation=_MRQA_CITATION + citation,
        homepage=HOMEPAGE,
    )


NATURAL_QUESTIONS = _mrqa(
    "mrqa_natural_questions",
    title="Natural Questions, short answers",
    attempt="naturalquestions",
    files=("NaturalQuestionsShort", "NaturalQuestions"),
    tfds="natural_questions",
    sizes=(104_071, 12_836),
    licence="CC BY-SA 3.0",
    citation="""@article{kwiatkowski2019natural,
  title = {{Natural Questions}: A Benchmark for Question Answering Research},
  author = {Kwiatkowski, Tom and Palomaki, Jennimaria and Redfield, Olivia and Collins, Michael and
    Parikh, Ankur and Alberti, Chris and Epstein, Danielle and Polosukhin, Illia and Devlin, Jacob and
    Lee, Kenton and Toutanova, Kristina and Jones, Llion and Kelcey, Matthew and Chang, Ming-Wei and
    Dai, Andrew M. and Uszkoreit, Jakob and Le, Quoc and Petrov, Slav},
  journal = {Transactions of the Association for Computational Linguistics},
  volume = {7},
  year = {2019},
  url = {https://aclanthology.org/Q19-1026}
}""",
)

HOTPOTQA = _mrqa(
    "mrqa_hotpotqa",
    title="HotpotQA",
    attempt="hotpotqa",
    files=("HotpotQA",),
    tfds="hotpot_qa",
    sizes=(72_928, 5_901),
    licence="CC BY-SA 4.0",
    citation="""@inproceedings{yang2018hotpotqa,
  title = {{HotpotQA}: A Dataset for Diverse, Explainable Multi-hop Question Answering},
  author = {Yang, Zhilin and Qi, Peng and Zhang, Saizheng and Bengio, Yoshua and Cohen, William and
    Salakhutdinov, Ruslan and Manning, Christopher D.},
  booktitle = {Proceedings of EMNLP},
  year = {2018},
  url = {https://aclanthology.org/D18-1259}
}""",
)

SEARCHQA = _mrqa(
    "mrqa_searchqa",
    title="SearchQA",
    attempt="searchqa",
    files=("SearchQA",),
    tfds="search_qa",
    sizes=(117_384, 16_980),
    licence="none stated; Jeopardy! questions and snippets of web pages, for research",
    citation="""@article{dunn2017searchqa,
  title = {{SearchQA}: A New {Q\\&A} Dataset Augmented with Context from a Search Engine},
  author = {Dunn, Matthew and Sagun, Levent and Higgins, Mike and Guney, V. Ugur and Cirik, Volkan and
    Cho, Kyunghyun},
  journal = {arXiv preprint arXiv:1704.05179},
  year = {2017}
}""",
)

NEWSQA = _mrqa(
    "mrqa_newsqa",
    title="NewsQA",
    attempt="newsqa",
    files=("NewsQA",),
    tfds="news_qa",
    sizes=(74_160, 4_212),
    licence="Microsoft's terms for NewsQA; the articles are CNN's and for research only",
    citation="""@inproceedings{trischler2017newsqa,
  title = {{NewsQA}: A Machine Comprehension Dataset},
  author = {Trischler, Adam and Wang, Tong and Yuan, Xingdi and Harris, Justin and Sordoni, Alessandro and
    Bachman, Philip and Suleman, Kaheer},
  booktitle = {Proceedings of the 2nd Workshop on Representation Learning for {NLP}},
  year = {2017},
  url = {https://aclanthology.org/W17-2623}
}""",
)

TRIVIAQA = _mrqa(
    "mrqa_triviaqa",
    title="TriviaQA, web",
    attempt="triviaqa",
    files=("TriviaQA-web", "TriviaQA"),
    tfds="trivia_qa",
    sizes=(61_688, 7_785),
    licence="Apache 2.0 for the collection; questions and web pages belong to their authors",
    citation="""@inproceedings{joshi2017triviaqa,
  title = {{TriviaQA}: A Large Scale Distantly Supervised Challenge Dataset for Reading Comprehension},
  author = {Joshi, Mandar and Choi, Eunsol and Weld, Daniel and Zettlemoyer, Luke},
  booktitle = {Proceedings of ACL},
  year = {2017},
  url = {https://aclanthology.org/P17-1147}
}""",
)

MRQA_SQUAD = _mrqa(
    "mrqa_squad",
    title="SQuAD",
    attempt="squad",
    files=("SQuAD",),
    tfds="squad",
    sizes=(86_588, 10_507),
    licence=squad.SQUAD.licence,
    citation=squad.SQUAD.citation,
)

DATA_SETS = (NATURAL_QUESTIONS, HOTPOTQA, SEARCHQA, NEWSQA, TRIVIAQA, MRQA_SQUAD)
