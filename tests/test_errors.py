import pytest

from mpt_jax.errors import unknown_name


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("glue_rt", ["glue_rte", "glue_cola"], "did you mean 'glue_rte'?"),
        ("zzz", ["glue_rte", "glue_cola"], "known are: glue_cola, glue_rte"),
        ("zzz", [], "none is known"),
        ("zzz", [f"t{i:02}" for i in range(14)], "t11 and 2 more"),
    ],
)
def test_unknown_name_gives_the_nearest_or_the_known(name, known, hint):
    message = str(unknown_name("task", name, known))
    assert message.startswith(f"unknown task {name!r}; ")
    assert message.endswith(hint)
