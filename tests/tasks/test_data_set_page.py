"""docs/data_sets.md says what the data sets say of themselves."""

import importlib.util
from pathlib import Path

from mpt_jax.data.splits import RULES
from mpt_jax.tasks.benchmark import DATA_SETS, MIXTURES

SCRIPT = Path(__file__).parents[2] / "docs/write_data_sets.py"


def script():
    spec = importlib.util.spec_from_file_location("write_data_sets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes():
    written = SCRIPT.with_name("data_sets.md").read_text(encoding="utf-8")
    assert written == script().page(), "run python docs/write_data_sets.py"


def test_every_set_rule_and_mixture_is_explained():
    page = script().page()
    for data_set in DATA_SETS.values():
        section = page.partition(f"\n### {data_set.task}\n")[2].partition("\n### ")[0]
        for text in (data_set.licence, data_set.homepage, data_set.citation.strip(), data_set.tfds):
            assert text in section
        for layout in data_set.layouts:
            assert all(f"`{name}`" in section for names in layout.files.values() for name in names)
        assert f"| `{data_set.split_rule}` | " in page.partition("## Splits")[2]
    assert all(f"| `{name}` | " in page for name in MIXTURES)
    assert {data_set.split_rule for data_set in DATA_SETS.values()} <= set(RULES)
