import pytest

from mpt_jax.data.splits import examples_for
from mpt_jax.errors import UserError

EAGLE = "name[The Eagle], eatType[coffee shop], priceRange[less than £20]"
VAULTS = "name[The Vaults], near[Café Adriatic]"
CSV = f'''mr,ref
"{EAGLE}",The Eagle is a cheap coffee shop.
"{VAULTS}","The Vaults, ""near"" Café Adriatic."
"{EAGLE}","A coffee shop for less than £20
is The Eagle."
"{EAGLE}",The Eagle is a cheap coffee shop.
'''
FIRST, SECOND = (
    "The Eagle is a cheap coffee shop.",
    "A coffee shop for less than £20\nis The Eagle.",
)
VAULTS_TEXT = 'The Vaults, "near" Café Adriatic.'


@pytest.fixture
def e2e(write):
    for name in ("trainset", "devset", "testset_w_refs"):
        write(f"e2e-dataset/{name}.csv", CSV)


def test_training_has_each_reference_and_evaluation_each_input_once(e2e, register):
    tasks = register("e2e_nlg")
    prefix = "e2e_nlg meaning_representation: "
    assert tasks.texts("e2e_nlg", "train") == [
        (prefix + EAGLE, FIRST),
        (prefix + VAULTS, VAULTS_TEXT),
        (prefix + EAGLE, SECOND),
        (prefix + EAGLE, FIRST),
    ]
    for split in ("validation", "test"):
        assert tasks.texts("e2e_nlg", split) == [
            (prefix + EAGLE, FIRST),
            (prefix + VAULTS, VAULTS_TEXT),
        ]
    assert tasks.extras("e2e_nlg", "test", "answers") == [[FIRST, SECOND, FIRST], [VAULTS_TEXT]]


def test_attributes_as_keys_and_values(e2e, register):
    tasks = register("e2e_nlg", text_format="t5")
    assert [inputs for inputs, _ in tasks.texts("e2e_nlg", "test")] == [
        "e2e_nlg name: The Eagle eatType: coffee shop priceRange: less than £20",
        "e2e_nlg name: The Vaults near: Café Adriatic",
    ]


def test_a_prediction_is_scored_against_all_references(e2e, register):
    tasks = register("e2e_nlg")
    second = tasks.score("e2e_nlg", "test", [SECOND, VAULTS_TEXT])
    assert set(second) == {"bleu", "nist", "rougeL", "cider"}
    assert second["bleu"] == pytest.approx(1)
    assert second["rougeL"] == pytest.approx(1)
    neither = tasks.score("e2e_nlg", "test", [VAULTS_TEXT, SECOND])
    assert all(neither[name] < value for name, value in second.items())


def test_the_roles_are_the_official_splits(e2e, register):
    tasks = register("e2e_nlg")
    roles = {
        role: len(examples_for("official", role, lambda split: tasks.store("e2e_nlg", split)))
        for role in ("train", "validation", "test")
    }
    assert roles == {"train": 4, "validation": 2, "test": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mr;ref\nname[A];b\n", r"devset.csv, line 1: there is no column 'mr', 'ref'; .*'mr;ref'"),
        (CSV + "name[A]\n", "line 7: 1 cells; expected 2"),
        (CSV + "name[A],b,c\n", "line 7: 3 cells; expected 2"),
        (CSV + 'name[A],"b\nc\n', "line 7: not CSV"),
        (CSV + "name[A], \n", "line 7: the references are"),
        (CSV + "\nThe Eagle,b\n", "line 8: the input is 'The Eagle'"),
        (CSV + '"name[A], eatType",b\n', "line 7: the input is"),
        (CSV + '"name[A]]",b\n', "line 7: the input is"),
        (CSV.encode() + b"name[\xc3],b\n", "line 7: byte 6 of the line, 0xc3"),
        ("", "no examples in split 'validation'"),
    ],
    ids=range(10),
)
def test_damaged_files_are_named_with_the_line(write, register, content, message):
    write("e2e/devset.csv", content)
    with pytest.raises(UserError, match=message):
        register("e2e_nlg").store("e2e_nlg", "validation")
