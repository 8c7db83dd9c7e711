"""Records survive the file, merge by key, and refuse what does not go together."""

import json
import math

import pytest

from mpt_jax.reporting.results import Curve, Draw, Results, ResultsError, Similarity


def test_file_round_trip(results, tmp_path):
    path = results.save(tmp_path / "deep" / "results.json")
    assert Results.load(path) == results
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]  # no temporary left


def test_non_finite_numbers_become_null_and_nan(score, tmp_path):
    curve = Curve(
        stage="adapt", task="a", method="mpt", k=4, seed=0, split="test",
        steps=[0, 1], scores=[0.5, math.inf],
    )  # fmt: skip
    path = Results(
        scores=[score("adapt", "a", "mpt", math.nan, majority=None)], curves=[curve]
    ).save(tmp_path / "r.json")
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["scores"][0]["score"] is None
    loaded = Results.load(path)
    assert math.isnan(loaded.scores[0].score) and loaded.scores[0].majority is None
    assert loaded.curves[0].scores[0] == 0.5 and math.isnan(loaded.curves[0].scores[1])


def test_a_failed_write_leaves_the_old_file(results, tmp_path, monkeypatch):
    path = results.save(tmp_path / "results.json")
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk is gone")))
    with pytest.raises(OSError, match="disk is gone"):
        Results().save(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1, "scores"', "no results file"),
        ("[]", "no results file"),
        ('{"schema_version": 99}', "schema version 99"),
        ('{"schema_version": 1, "scores": [{"task": "a"}]}', "records of another form"),
    ],
)
def test_unreadable_files(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=message):
        Results.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(ResultsError, match="does not exist"):
        Results.load(tmp_path / "results.json")


def test_merge_takes_the_later_record_and_keeps_the_id(score):
    old = Results(scores=[score("teach", "a", "mpt", 0.1), score("teach", "b", "mpt", 0.2)])
    new = Results(scores=[score("teach", "b", "mpt", 0.9)], seconds={"teach": 2.0})
    merged = old.merge(new)
    assert [s.score for s in merged.scores] == [0.1, 0.9]
    assert merged.id == old.id and merged.seconds == {"teach": 2.0}
    assert [s.score for s in old.scores] == [0.1, 0.2]


def test_merge_refuses_another_backbone_and_another_metric(score):
    one, other = (Results(backbone={"fingerprint": f}) for f in ("aa", "bb"))
    with pytest.raises(ResultsError, match="aa and of backbone bb"):
        one.merge(other)
    with pytest.raises(ResultsError, match="by f1 and by accuracy"):
        Results(scores=[score("teach", "a", "mpt", 0.1, metric="f1")]).merge(
            Results(scores=[score("adapt", "a", "mpt", 0.1, metric="accuracy")])
        )


def test_records_of_a_wrong_form(score):
    with pytest.raises(Exception, match="pretrain"):
        score("pretrain", "a", "mpt", 0.1)
    with pytest.raises(ValueError, match="2 steps and 1 scores"):
        Curve(stage="adapt", task="a", method="mpt", k=4, seed=0, split="test", steps=[0, 1],
              scores=[0.5])  # fmt: skip
    with pytest.raises(ValueError, match="2 rows of 2"):
        Similarity(what="x", tasks=["a", "b"], cosine=[[1.0, 0.0]])


def a_draw(digest="aa", **others):
    fields = dict(task="t", k=4, seed=0, per_class=False, examples=4, indices=[1, 2, 5, 9])
    return Draw(**{**fields, "digest": digest, **others})


def test_draws_survive_the_file_and_merge(tmp_path):
    one, two = (
        Results(draws=[a_draw()]),
        Results(draws=[a_draw(), a_draw("bb", seed=1, indices=None)]),
    )
    assert Results.load(two.save(tmp_path / "r.json")) == two
    assert one.merge(two).draws == two.draws


def test_merge_refuses_scores_of_other_draws():
    with pytest.raises(ResultsError, match="different examples of task t for k = 4, seed 0"):
        Results(draws=[a_draw()]).merge(Results(draws=[a_draw("bb")]))


def test_single_metrics_survive_the_file_and_old_files_have_none(score, tmp_path):
    metrics = {"accuracy": 0.5, "f1": math.nan}
    path = Results(scores=[score("adapt", "a", "mpt", 0.5, metrics=metrics)]).save(
        tmp_path / "r.json"
    )
    (loaded,) = Results.load(path).scores
    assert loaded.metrics["accuracy"] == 0.5 and math.isnan(loaded.metrics["f1"])
    content = json.loads(path.read_text())
    del content["draws"], content["scores"][0]["metrics"], content["scores"][0]["majorities"]
    path.write_text(json.dumps(content))
    (old,) = Results.load(path).scores
    assert old.score == 0.5 and old.metrics == {} == old.majorities
