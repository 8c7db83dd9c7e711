import json

import numpy as np
import pytest

from mpt_jax.training.metrics_writer import MetricsWriter, read_rows


def test_rows_by_member_and_for_all(tmp_path):
    writer = MetricsWriter(tmp_path, ["a", "b"])
    writer.write("train", 10, 1.5, {"loss": np.asarray([0.5, np.nan]), "rows": 32})
    writer.close()
    assert read_rows(tmp_path, "train") == [
        {"step": 10, "seconds": 1.5, "loss": {"a": 0.5, "b": None}, "rows": 32.0}
    ]
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert read_rows(tmp_path, "validation") == []


def test_a_row_of_another_number_of_members_is_an_error(tmp_path):
    writer = MetricsWriter(tmp_path, ["a", "b"])
    with pytest.raises(ValueError, match="shorter"):
        writer.write("train", 1, 0.0, {"loss": np.zeros(1)})
    writer.close()


def test_a_resumed_run_drops_rows_after_its_checkpoint_and_a_cut_line(tmp_path):
    writer = MetricsWriter(tmp_path, ["a"])
    for step in (1, 2, 3):
        writer.write("train", step, 0.0, {"loss": [float(step)]})
    writer.close()
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    writer = MetricsWriter(tmp_path, ["a"], resumed_at=2)
    writer.write("train", 3, 0.0, {"loss": [9.0]})
    writer.close()
    assert [(row["step"], row["loss"]["a"]) for row in read_rows(tmp_path, "train")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 9.0),
    ]
    assert all(json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines())
