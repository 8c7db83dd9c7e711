import pytest

pytest.importorskip("seqio")

from mpt_jax.data.generated import generated_dataset, original_error  # noqa: E402
from mpt_jax.errors import UserError  # noqa: E402

FIELDS = {"text": False, "several": True}


def rows(count):
    for number in range(count):
        yield {"text": f"é{number}", "several": [str(number)] * (number % 3), "more": "dropped"}


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_rows_come_out_in_their_order(count):
    dataset = generated_dataset(lambda: rows(count), FIELDS)
    assert {name: spec.shape.rank for name, spec in dataset.element_spec.items()} == {
        "text": 0,
        "several": 1,
    }
    for _ in range(2):  # each pass begins anew
        found = [(r["text"].decode(), list(r["several"])) for r in dataset.as_numpy_iterator()]
        assert found == [(r["text"], [s.encode() for s in r["several"]]) for r in rows(count)]


@pytest.mark.parametrize("text", ['file "a", line 3: „ä“\n', "", "a\\b {'c': [1]} \"", "x" * 5000])
def test_a_users_error_comes_out_as_it_was(text):
    def broken():
        yield from rows(300)
        raise UserError(text)

    dataset = generated_dataset(broken, FIELDS).ragged_batch(2)
    with pytest.raises(Exception) as caught:  # noqa: B017
        list(dataset.as_numpy_iterator())
    error = original_error(caught.value)
    assert isinstance(error, UserError) and str(error) == text


def test_other_errors_stay_what_they_are():
    assert original_error(ValueError("no mark in here")) is None
