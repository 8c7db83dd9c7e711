"""One label, colour, marker and line for each method, the same in every table and plot."""

from collections.abc import Iterable
from typing import NamedTuple

from mpt_jax.reporting.results import Curve, Results, Score


class Style(NamedTuple):
    label: str
    colour: str
    marker: str
    line: str


# Colours that stay apart for colour-blind readers (Okabe and Ito 2008); markers and dashes tell them apart
# in grey as well.
STYLES = {
    "mpt": Style("MPT", "#0072B2", "o", "-"),
    "mpt_no_distillation": Style("MPT w/o distill", "#56B4E9", "D", "--"),
    "prompt_tuning": Style("prompt tuning", "#E69F00", "s", "-"),
    "shared_prompt": Style("PT from shared", "#CC79A7", "^", "-."),
    "spot": Style("SPoT", "#009E73", "v", "--"),
    "mpt_multi": Style("MPT, multi-target", "#004C7A", "p", ":"),
    "mpt_frozen": Style("MPT, frozen prompt", "#7FB8DE", "d", ":"),
    "attempt": Style("ATTEMPT", "#882255", "<", "--"),
    "ulpt": Style("ULPT", "#999933", "H", "-."),
    "dept": Style("DePT", "#AA8800", "8", ":"),
    "lora": Style("LoRA", "#D55E00", "P", "-"),
    "adapter": Style("adapter", "#AA4499", "X", "-."),
    "bitfit": Style("BitFit", "#44AA99", ">", ":"),
    "full": Style("full fine-tuning", "#222222", "*", "-"),
}
MEANINGS = {
    "mpt": "starts at the shared prompt and the mean factors that distillation learned",
    "mpt_no_distillation": "the same, from a shared prompt that was learned without teachers",
    "prompt_tuning": "starts from scratch, knowing nothing of the source tasks",
    "shared_prompt": "plain prompt tuning that starts at the shared prompt: it tells what the factors add",
    "spot": "plain prompt tuning that starts at the best source task's prompt",
    "mpt_multi": "one shared prompt for all target tasks, with factors for each",
    "mpt_frozen": "the shared prompt stays as distilled; only the factors are trained (files hold both)",
    "attempt": "a mixture of the source tasks' frozen prompts and one of its own, weighed by the input",
    "ulpt": "a low-dimensional prompt under a fixed random projection",
    "dept": "a shorter prompt, and low-rank offsets to the word embeddings",
    "lora": "low-rank changes of the attention's weights",
    "adapter": "small bottleneck layers inside the network",
    "bitfit": "biases only",
    "full": "all weights of the network",
}
SPARE = (
    ("#D55E00", "P", "-"),
    ("#332288", "X", "-."),
    ("#882255", "<", "--"),
    ("#44AA99", ">", ":"),
    ("#999933", "*", "-"),
    ("#661100", "h", "--"),
)


def label(method: str) -> str:
    """How a method is called in tables and plots."""
    return STYLES[method].label if method in STYLES else method.replace("_", " ")


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """The style of each method; those without one of their own get spare ones in the given order."""
    chosen: dict[str, Style] = {}
    spare = 0
    for method in methods:
        if method in STYLES:
            chosen[method] = STYLES[method]
        elif method not in chosen:
            chosen[method] = Style(label(method), *SPARE[spare % len(SPARE)])
            spare += 1
    return chosen


def methods_of(results: Results) -> list[str]:
    """All methods: those with a style of their own in that order, then the others as they appear."""
    records: list[Score | Curve] = [*results.scores, *results.curves]
    found = list(dict.fromkeys(record.method for record in records))
    return [m for m in STYLES if m in found] + [m for m in found if m not in STYLES]
