"""Methods look different from each other in plots, however many there are."""

import re

from mpt_jax.gin_files import SHIPPED
from mpt_jax.reporting.styles import MEANINGS, SPARE, STYLES, label, styles


def looks(names):
    return {name: (style.colour, style.marker) for name, style in styles(names).items()}


def test_every_shipped_variant_has_a_look_and_a_meaning_of_its_own():
    text = (SHIPPED / "methods.gin").read_text()
    names = re.findall(r'^\w+/adapt\.Variant\.name = "(\w+)"', text, re.M)
    assert len(names) > 20 and set(names) == set(STYLES) == set(MEANINGS)
    assert len(set(looks(names).values())) == len(names)
    assert len({label(name) for name in names}) == len(names)


def test_methods_of_ones_own_do_not_look_like_others():
    others = [f"own_{i}" for i in range(len(SPARE) ** 2 - len(STYLES))]
    found = looks([*STYLES, *others])
    assert len(set(found.values())) == len(found)
    first = [styles(others)[name][1:] for name in others[: len(SPARE)]]
    assert first == list(SPARE)
    assert looks([*others, *others]) == looks(others)
