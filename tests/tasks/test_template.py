import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt_jax.errors import UserError
from mpt_jax.tasks.template import Template

TEXT = st.text(alphabet="ab{} \n", max_size=12)


def parse(text):
    return Template.parse("inputs", text)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("review: {text}", "review: x{y}"),
        ("{text}{n b} {text}", "x{y}2 x{y}"),
        ("{ text }", "x{y}"),
        ("{{{text}}}", "{x{y}}"),
        ("{{text}} {n b}", "{text} 2"),
        ("a.b: {text}!r", "a.b: x{y}!r"),
    ],
)
def test_fields_and_braces(text, filled):
    assert parse(text).fill({"text": "x{y}", "n b": "2"}) == filled


def test_columns_once_in_order():
    assert parse("{b}{a}{b}").columns == ("b", "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x {text", "'{' without its partner at character 3"),
        ("x} {text}", "'}' without its partner at character 2"),
        ("{text}}", "'}' without its partner at character 7"),
        ("{a{b}}", "'{' without its partner at character 1"),
        ("a {} {text}", "without a name at character 3"),
        ("{ }", "without a name"),
        ("{{text}}", "names no column"),
        ("", "names no column"),
    ],
)
def test_what_is_no_template(text, said):
    with pytest.raises(UserError) as error:
        parse(text)
    assert said in str(error.value) and f"inputs = {text!r}" in str(error.value)


@given(TEXT, TEXT, TEXT)
def test_any_text_can_be_said(before, after, value):
    def escaped(text):
        return text.replace("{", "{{").replace("}", "}}")

    template = parse(f"{escaped(before)}{{c}}{escaped(after)}")
    assert template.fill({"c": value}) == before + value + after
