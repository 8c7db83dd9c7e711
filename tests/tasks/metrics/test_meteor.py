"""METEOR with a WordNet of one pair of synonyms, in WordNet's own file format."""

import shutil
from pathlib import Path

import pytest

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics import METRICS, metric_functions

nltk_data = pytest.importorskip("nltk.data", reason="NLTK comes with the extra `test`")
meteor = METRICS["meteor"]


def write_wordnet(folder: Path) -> None:
    """The adjectives big and grand as one synset; nothing else."""
    folder.mkdir(parents=True)
    line = "{offset:08d} 00 a 02 big 0 grand 0 000 | above the average\n"
    head = "  1 WordNet 3.0 Copyright, made for a test\n"
    for kind in ("noun", "verb", "adj", "adv"):
        (folder / f"index.{kind}").write_text(head)
        (folder / f"data.{kind}").write_text(head)
        (folder / f"{kind}.exc").write_text("")
    (folder / "data.adj").write_text(head + line.format(offset=len(head)))
    entries = [f"{word} a 1 0 1 0 {len(head):08d}  \n" for word in ("big", "grand")]
    (folder / "index.adj").write_text(head + "".join(entries))
    (folder / "index.sense").write_text("")
    (folder / "lexnames").write_text("00\tadj.all\t3\n")


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    write_wordnet(tmp_path / "corpora/wordnet")
    monkeypatch.setattr(nltk_data, "path", [str(tmp_path)])
    return tmp_path


def score(matches, chunks, made, wanted):
    """Lavie and Agarwal 2007: alpha 0.9, beta 3, gamma 0.5."""
    precision, recall = matches / made, matches / wanted
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


def test_by_hand_with_stems_synonyms_and_order(wordnet):
    assert meteor([["a big dog barks"]], ["A GRAND dog barking"]) == {
        "meteor": pytest.approx(score(4, 1, 4, 4))
    }
    assert meteor([["a big dog barks"]], ["a small dog barks"])["meteor"] == pytest.approx(
        score(3, 2, 4, 4)
    )
    # The best reference counts; the mean over examples.
    targets = [["nothing alike", "one two three"], ["one two three"]]
    expected = (score(2, 1, 2, 3) + 0) / 2
    assert meteor(targets, ["one two", "else"])["meteor"] == pytest.approx(expected)
    assert meteor([["x"]], [""]) == {"meteor": 0.0}


def test_wordnet_may_be_zipped(wordnet):
    folder = wordnet / "corpora"
    shutil.make_archive(str(folder / "wordnet"), "zip", folder, "wordnet")
    shutil.rmtree(folder / "wordnet")
    assert meteor([["big"]], ["grand"])["meteor"] == pytest.approx(score(1, 1, 1, 1))


def test_without_wordnet_it_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk_data, "path", [str(tmp_path)])
    for call in (lambda: metric_functions(["meteor"]), lambda: meteor([["a"]], ["a"])):
        with pytest.raises(UserError, match="nltk.downloader -d FOLDER wordnet.*NLTK_DATA=FOLDER"):
            call()
    with pytest.raises(UserError, match="no reference"):
        meteor([[]], ["a"])
    assert meteor([], []) == {"meteor": 0.0}
    assert not list(tmp_path.iterdir())
