import json
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.training.checkpoints import Checkpoints, Identity, read_record, steps

IDENTITY = Identity("a" * 16, {"name": "mpt", "tasks": ["x", "y"]}, {"seed": 3})


class Moments(NamedTuple):
    count: jax.Array
    empty: tuple
    mean: dict


def state(value: int):
    mean = {"shared": jnp.full((2, 3), value, jnp.float32)}
    u = jnp.full((1,), -value, jnp.float32)
    return {
        "step": jnp.asarray(value, jnp.int32),
        "params": {"mpt": {"shared": jnp.full((2, 3), value, jnp.float32), "u": u}},
        "optimizer": (Moments(jnp.asarray(1, jnp.int32), (), mean), None),
    }


def written(folder, *, keep=2, scores=()):
    checkpoints = Checkpoints(folder, IDENTITY, keep=keep)
    for step, score in enumerate(scores or (None, None, None), start=1):
        checkpoints.save(step, state(step), score=score)
    checkpoints.close()
    return Checkpoints(folder, IDENTITY, keep=keep)


def damage(folder, step):
    """Cuts the arrays of a checkpoint short, as a full disk or a lost machine does."""
    files = [path for path in (folder / str(step) / "arrays").rglob("*") if path.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_is_read_is_what_was_written(tmp_path):
    restored = written(tmp_path).restore_latest(state(0))
    assert restored.step == 3
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(3))
    assert isinstance(restored.state["optimizer"][0], Moments)
    assert restored.record["data"] == {"seed": 3}


def test_nothing_there(tmp_path):
    assert Checkpoints(tmp_path / "absent", IDENTITY).restore_latest(state(0)) is None
    assert not (tmp_path / "absent").exists()


def test_the_latest_and_the_best_are_kept(tmp_path):
    written(tmp_path, keep=2, scores=(0.1, 0.9, 0.3, None, 0.2))
    assert steps(tmp_path) == [2, 4, 5]


def test_a_step_is_written_once(tmp_path):
    checkpoints = written(tmp_path)
    checkpoints.save(3, state(7))
    checkpoints.close()
    jax.tree.map(
        np.testing.assert_array_equal, checkpoints.restore_latest(state(0)).state, state(3)
    )


def test_a_truncated_checkpoint_gives_way_to_the_one_before_and_says_so(tmp_path):
    checkpoints = written(tmp_path)
    damage(tmp_path, 3)
    with pytest.warns(UserWarning, match=r"checkpoint .*/3 is damaged .*3\.damaged"):
        restored = checkpoints.restore_latest(state(0))
    assert restored.step == 2
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(2))
    checkpoints.save(3, state(3))  # the run gets there again
    checkpoints.close()
    assert steps(tmp_path) == [2, 3]
    assert (tmp_path / "3.damaged").is_dir()


def test_changed_values_are_found(tmp_path):
    checkpoints = written(tmp_path)
    other = Checkpoints(tmp_path / "other", IDENTITY)
    other.save(3, state(4))
    other.close()
    shutil.rmtree(tmp_path / "3" / "arrays")
    shutil.copytree(tmp_path / "other" / "3" / "arrays", tmp_path / "3" / "arrays")
    with pytest.warns(UserWarning, match="digest"):
        assert checkpoints.restore_latest(state(0)).step == 2


def test_a_lost_record_is_damage(tmp_path):
    checkpoints = written(tmp_path)
    (tmp_path / "3" / "record" / "metadata").write_text('{"format": 1, "st')
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoints.restore_latest(state(0)).step == 2


def test_all_damaged(tmp_path):
    checkpoints = written(tmp_path, keep=1)
    damage(tmp_path, 3)
    with (
        pytest.warns(UserWarning),
        pytest.raises(UserError, match="every checkpoint .* is damaged"),
    ):
        checkpoints.restore_latest(state(0))


def test_half_written_ones_do_not_count(tmp_path):
    checkpoints = written(tmp_path)
    shutil.copytree(tmp_path / "3", tmp_path / "4.orbax-checkpoint-tmp")
    assert checkpoints.restore_latest(state(0)).step == 3
    checkpoints.save(4, state(4))
    checkpoints.close()
    assert steps(tmp_path)[-1] == 4
    assert not (tmp_path / "4.orbax-checkpoint-tmp").exists()


def test_another_backbone_is_refused_with_both_fingerprints(tmp_path):
    written(tmp_path)
    other = Checkpoints(tmp_path, Identity("b" * 16, IDENTITY.method, IDENTITY.data))
    with pytest.raises(UserError, match="a{16}.*b{16}"):
        other.restore_latest(state(0))
    assert steps(tmp_path) == [2, 3]  # nothing was renamed


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (
            Identity("a" * 16, {"name": "mpt", "tasks": ("x", "z")}, {"seed": 3}),
            "method.tasks: was",
        ),
        (Identity("a" * 16, IDENTITY.method, {"seed": 4}), "data.seed: was 3, is 4"),
        (
            Identity("a" * 16, IDENTITY.method, IDENTITY.data, "int8 in float32"),
            "in float32, but this run has it in int8 in float32",
        ),
    ],
)
def test_another_configuration_is_refused(tmp_path, identity, message):
    written(tmp_path)
    with pytest.raises(UserError, match=message):
        Checkpoints(tmp_path, identity).restore_latest(state(0))


def test_a_record_that_does_not_tell_its_precision_is_taken(tmp_path):
    """As those of earlier versions are."""
    written(tmp_path)
    record = tmp_path / "3" / "record" / "metadata"
    content = json.loads(record.read_text())
    assert content.pop("precision") == "float32"
    record.write_text(json.dumps(content))
    other = Identity("a" * 16, IDENTITY.method, IDENTITY.data, "bfloat16")
    assert Checkpoints(tmp_path, other).restore_latest(state(0)).step == 3


def test_tuples_are_as_good_as_lists(tmp_path):
    written(tmp_path)
    same = Identity("a" * 16, {"name": "mpt", "tasks": ("x", "y")}, {"seed": 3})
    assert Checkpoints(tmp_path, same).restore_latest(state(0)).step == 3


def test_other_shapes_are_refused_by_name(tmp_path):
    checkpoints = written(tmp_path)
    template = state(0)
    template["params"]["mpt"]["u"] = jnp.zeros((5,))
    with pytest.raises(UserError, match=r"params\.mpt\.u: has float32\[1\], expected float32\[5\]"):
        checkpoints.restore_latest(template)


def test_the_record_is_read_without_arrays(tmp_path):
    written(tmp_path)
    damage(tmp_path, 3)
    record = read_record(tmp_path, 3)
    assert record["step"] == 3 and record["backbone"] == "a" * 16
    json.dumps(record)


def test_arrays_come_back_where_the_template_has_them(tmp_path):
    checkpoints = written(tmp_path)
    device = jax.devices()[1]
    restored = checkpoints.restore_latest(jax.device_put(state(0), device))
    assert restored.state["params"]["mpt"]["u"].devices() == {device}
