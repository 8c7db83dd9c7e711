"""One label, colour, marker and line for each method, the same in every table and plot."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from mpt_jax.reporting.results import Curve, Results, Score


class Style(NamedTuple):
    label: str
    colour: str
    marker: str
    line: str


# Colours that stay apart for colour-blind readers (Okabe and Ito 2008); markers and dashes tell them apart
# in grey as well. A variant of a method has its colour and another marker.
STYLES = {
    "mpt": Style("MPT", "#0072B2", "o", "-"),
    "mpt_no_distillation": Style("MPT w/o distill", "#56B4E9", "D", "--"),
    "prompt_tuning": Style("prompt tuning", "#E69F00", "s", "-"),
    "shared_prompt": Style("PT from shared", "#CC79A7", "^", "-."),
    "spot": Style("SPoT", "#009E73", "v", "--"),
    "spot_weighted": Style("SPoT (weighted)", "#009E73", "<", "-."),
    "spot_similar": Style("SPoT (similar)", "#009E73", ">", ":"),
    "mpt_multi": Style("MPT, multi-target", "#004C7A", "p", ":"),
    "mpt_frozen": Style("MPT, frozen prompt", "#7FB8DE", "d", ":"),
    "attempt": Style("ATTEMPT", "#882255", "<", "--"),
    "attempt_multi": Style("ATTEMPT (multi-target)", "#882255", "8", ":"),
    "ulpt": Style("ULPT", "#999933", "H", "-."),
    "ulpt_shared": Style("ULPT from shared", "#999933", "^", "--"),
    "dept": Style("DePT", "#AA8800", "8", ":"),
    "dept_shared": Style("DePT from shared", "#AA8800", "p", "--"),
    "lora": Style("LoRA", "#D55E00", "P", "-"),
    "adapter": Style("adapter", "#AA4499", "X", "-."),
    "adapter_pfeiffer": Style("adapter (Pfeiffer)", "#AA4499", "D", "-"),
    "adapter_shared": Style("adapter (one for all)", "#AA4499", "v", ":"),
    "bitfit": Style("BitFit", "#44AA99", ">", ":"),
    "full": Style("full fine-tuning", "#222222", "*", "-"),
    "full_multi": Style("full (one for all)", "#222222", "X", "--"),
}
MEANINGS = {
    "mpt": "starts at the shared prompt and the mean factors that distillation learned",
    "mpt_no_distillation": "the same, from a shared prompt that was learned without teachers",
    "prompt_tuning": "starts from scratch, knowing nothing of the source tasks",
    "shared_prompt": "plain prompt tuning that starts at the shared prompt: it tells what the factors add",
    "spot": "plain prompt tuning that starts at the best source task's prompt",
    "spot_weighted": "plain prompt tuning that starts at a weighted mean of all source prompts",
    "spot_similar": "plain prompt tuning that starts at the source prompt most similar to a trained one",
    "mpt_multi": "one shared prompt for all target tasks, with factors for each",
    "mpt_frozen": "the shared prompt stays as distilled; only the factors are trained (files hold both)",
    "attempt": "a mixture of the source tasks' frozen prompts and one of its own, weighed by the input",
    "attempt_multi": "the same for all target tasks together, with one attention",
    "ulpt": "a low-dimensional prompt under a fixed random projection",
    "ulpt_shared": "the same, started as near to the shared prompt as the projection allows",
    "dept": "a shorter prompt, and low-rank offsets to the word embeddings",
    "dept_shared": "the same, started at the shared prompt's first slots",
    "lora": "low-rank changes of the attention's weights",
    "adapter": "small bottleneck layers inside the network, and its norms",
    "adapter_pfeiffer": "such layers behind the feed-forward layers only, as AdapterHub has them",
    "adapter_shared": "one adapter for all target tasks, which it has to tell apart by the text alone",
    "bitfit": "biases only",
    "full": "all weights of the network",
    "full_multi": "one network for all target tasks, which it has to tell apart by the text alone",
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
    """The style of each method; those without one of their own get spare ones in the given order.

    No two have both colour and marker in common, as long as there are no more spare ones than
    colours times markers.
    """
    names = list(dict.fromkeys(methods))
    taken = {STYLES[name][1:3] for name in names if name in STYLES}
    spare = itertools.cycle([pair for pair in _spare() if pair[:2] not in taken])
    return {name: STYLES.get(name) or Style(label(name), *next(spare)) for name in names}


def _spare() -> list[tuple[str, str, str]]:
    """Every spare colour with every spare marker, those first that are farthest apart."""
    count = len(SPARE)
    return [
        (SPARE[i][0], SPARE[(i + shift) % count][1], SPARE[(i + shift) % count][2])
        for shift in range(count)
        for i in range(count)
    ]


def methods_of(results: Results) -> list[str]:
    """All methods: those with a style of their own in that order, then the others as they appear."""
    records: list[Score | Curve] = [*results.scores, *results.curves]
    found = list(dict.fromkeys(record.method for record in records))
    return [m for m in STYLES if m in found] + [m for m in found if m not in STYLES]
