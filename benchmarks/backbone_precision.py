"""What keeping the frozen weights in bfloat16 or int8 saves and costs: memory, time, logits, accuracy.

    python benchmarks/backbone_precision.py --output=docs/precision.json --markdown=docs/precision.md

Two parts, of which `--only` runs one and keeps the other as the output file has it. `model`: the real
training step of prompt tuning (8 rows, 128 tokens behind a prompt of 100, 8 targets) on random weights of
T5 v1.1 Base's shape; memory as the compiler plans it, times as medians over rounds in which the
precisions take turns. `embedded`: prompts trained on the shipped model in each precision, and those
trained in float32 run in the others. Times are of the machine at hand; everything else is not.
"""

import argparse
import dataclasses
import gc
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from mpt_jax.cli import main as mpt
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.layer_stacking import stack_layers
from mpt_jax.models.t5 import Transformer
from mpt_jax.models.t5_sizes import size_named
from mpt_jax.models.weight_precision import kept
from mpt_jax.training.objectives import TaskObjective
from mpt_jax.training.optimizers import Group, Optimizer
from mpt_jax.training.schedules import WarmupLinear
from mpt_jax.training.step import init_state, make_train_step
from mpt_jax.training.update_rules import AdamW
from mpt_jax.whole_files import write_whole

PROMPT, INPUTS, TARGETS, ROWS = 100, 128, 8, 8
PRECISIONS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8 in float32": {"dtype": "float32", "weights": "int8"},
    "int8 in bfloat16": {"dtype": "bfloat16", "weights": "int8"},
}
LAYOUTS = {"unrolled": False, "scanned": True}
SEEDS, SHOTS, STEPS, RATE, SCORED = (0, 1, 2), 64, 60, 1.0, 100


def random_weights(config) -> dict[str, np.ndarray]:
    """Of T5's usual scales, by path in the unrolled tree."""
    stream = np.random.default_rng(0)
    weights = {}
    for path, shape in parameter_shapes(config).items():
        noise = stream.standard_normal(shape, np.float32)
        if path.endswith("/scale"):
            noise = 1 + np.float32(0.1) * noise
        elif path.endswith("/kernel"):
            noise /= np.float32(np.sqrt(shape[0]))
        if path.endswith("/query/kernel"):
            noise /= np.float32(np.sqrt(config.head_dim))
        weights[path] = noise
    return weights


def tree_of(weights, config):
    """The weights as the config keeps and lays them out."""
    flat = {}
    for path, values in weights.items():
        flat |= {name: jnp.asarray(part) for name, part in kept(path, values, config).items()}
    tree = unflatten_dict(flat, sep="/")
    return jax.jit(stack_layers)(tree) if config.scan_layers else tree


def a_batch(vocab_size):
    stream = np.random.default_rng(1)
    prompt = np.broadcast_to(np.arange(PROMPT) + vocab_size, (ROWS, PROMPT))
    words = stream.integers(2, vocab_size, (ROWS, INPUTS))
    targets = stream.integers(2, vocab_size, (ROWS, TARGETS)).astype(np.int32)
    zeros = np.zeros((ROWS, TARGETS), np.int32)
    return {
        "encoder_input_tokens": np.concatenate([prompt, words], axis=1).astype(np.int32),
        "decoder_input_tokens": np.concatenate([zeros[:, :1], targets[:, :-1]], axis=1),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones((ROWS, TARGETS), np.float32),
        "member_ids": zeros, "task_ids": zeros,
    }  # fmt: skip


class Case:
    """One precision in one layout: its compiled step, ready to be timed."""

    def __init__(self, config, weights):
        self.config = config
        method = PromptTuning(members=1, tasks=1, length=PROMPT, width=config.emb_dim)
        self.bank = Bank((method,), config.vocab_size)
        self.objective = TaskObjective(Transformer(config), self.bank)
        self.backbone = tree_of(weights, config)
        self.batch = a_batch(config.vocab_size)
        table = [(".*", Group(0.3, AdamW(), WarmupLinear()))]
        optimizer = Optimizer(table, self.prompts(), members={method.name: 1}, steps=1000)
        self.state = init_state(self.prompts(), optimizer)
        self.step = make_train_step(self.objective, optimizer)
        start = time.perf_counter()
        self.compiled = self.step.lower(self.state, self.backbone, self.batch).compile()
        self.compile_seconds = time.perf_counter() - start

    def prompts(self):
        prompt = np.random.default_rng(2).standard_normal((1, 1, PROMPT, self.config.emb_dim))
        return {"prompt_tuning": {"prompt": jnp.asarray(prompt, jnp.float32)}}

    def memory(self):
        plan = self.compiled.memory_analysis()
        return {
            "weights": sum(leaf.nbytes for leaf in jax.tree.leaves(self.backbone)),
            "arguments": plan.argument_size_in_bytes,
            "temporaries": plan.temp_size_in_bytes,
            "compile_seconds": self.compile_seconds,
        }

    def seconds(self):
        start = time.perf_counter()
        self.state, metrics = self.compiled(self.state, self.backbone, self.batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    def logits_and_gradient(self):
        def loss(params, backbone):
            logits = self.bank.logits(self.objective.network, params, backbone, self.batch)
            losses, _ = self.objective(params, backbone, self.batch)
            return jnp.sum(losses), logits

        gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(self.prompts(), self.backbone)
        return np.asarray(logits), np.asarray(gradient["prompt_tuning"]["prompt"])


def distance(found, exact):
    """Root mean square of the difference, of that of the exact numbers."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def measure_model(size, rounds):
    shape = size_named(size)
    weights = random_weights(shape)
    result = {"size": size, "rounds": rounds, "float32_bytes": 4 * sum(w.size for w in weights.values()),
              "device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "layouts": {}}  # fmt: skip
    for layout, scanned in LAYOUTS.items():
        cases = {}
        for name, settings in PRECISIONS.items():
            config = dataclasses.replace(shape, scan_layers=scanned, **settings)
            cases[name] = Case(config, weights)
            print(layout, name, cases[name].memory(), flush=True)
        times = {name: [] for name in cases}
        for turn in range(rounds + 1):  # the first one warms up
            for name, case in cases.items():
                seconds = case.seconds()
                if turn:
                    times[name].append(seconds)
        found = {name: case.memory() for name, case in cases.items()}
        for name in cases:
            ratios = [a / b for a, b in zip(times[name], times["float32"], strict=True)]
            found[name] |= {"seconds": statistics.median(times[name]), "ratio": statistics.median(ratios),
                            "ratio_range": [min(ratios), max(ratios)]}  # fmt: skip
        result["layouts"][layout] = found
        if scanned:  # compiles quickest; the numbers are those of the other layout
            exact = cases["float32"].logits_and_gradient()
            for name, case in cases.items():
                logits, gradient = case.logits_and_gradient()
                found[name] |= {
                    "logits_distance": distance(logits, exact[0]),
                    "gradient_distance": distance(gradient, exact[1]),
                    "same_first_token": float(np.mean(logits.argmax(-1) == exact[0].argmax(-1))),
                }
        del cases, case
        gc.collect()
    return result


def gin(**values):
    return [f"--gin.{name}={value!r}" for name, value in values.items()]


def stage(name, folder, precision, *words):
    settings = {f"backbone.BackboneSource.{k}": v for k, v in PRECISIONS[precision].items()}
    words = [name, "--gin_file=models/embedded.gin", f"--gin_file=runs/{name}.gin",
             f"--model_dir={folder}", *words, *gin(**settings)]  # fmt: skip
    if code := mpt(words):
        raise SystemExit(code)


def scores_of(folder):
    record = json.loads((folder / "results.json").read_text())
    return {f"{s['task']}/{s['seed']}": s["score"] for s in record["scores"]}


def measure_embedded():
    """Scores by (trained in, run in), then by task and seed."""
    trained_in = ("float32", "bfloat16", "int8 in float32")
    pairs = [(name, name) for name in trained_in]
    pairs += [("float32", name) for name in ("bfloat16", "int8 in float32", "int8 in bfloat16")]
    found = []
    with tempfile.TemporaryDirectory() as work:
        work, start = Path(work), time.perf_counter()
        stores = gin(STORE_DIR=str(work / "stores"))
        for name in trained_in:
            rate = {"scratch/adapt.Variant.learning_rate": RATE}
            stage(
                "adapt", work / name, name, *stores,
                *gin(METHOD="prompt_tuning", MIXTURE_OR_TASK_NAME="embedded_targets", SHOTS=(SHOTS,),
                     SEEDS=SEEDS, TRAIN_STEPS=STEPS, BATCH_SIZE=8, EVAL_PERIOD=10, **rate),
            )  # fmt: skip
        for trained, served in pairs:
            folder = work / f"{trained}, {served}"
            sources = {"SOURCES": (str(work / trained),), "MAX_EXAMPLES": SCORED}
            stage("evaluate", folder, served, *stores, *gin(**sources))
            found.append({"trained": trained, "served": served, "scores": scores_of(folder)})
    return {"pairs": found, "seconds": time.perf_counter() - start}


def megabytes(number):
    return f"{number / 1e6:,.0f}"


def model_tables(model):
    whole = model["float32_bytes"]
    yield (
        f"One training step of prompt tuning ({ROWS} rows, {INPUTS} tokens behind a prompt of {PROMPT}, "
        f"{TARGETS} targets) on random weights of {model['size']} ({megabytes(whole)} MB in float32). Memory "
        "in MB, as the compiler plans it for one device; time against float32 in the same layout, the median "
        f"over {model['rounds']} rounds in which the precisions take turns (lowest and highest); "
        f"{model['device']}, {model['cores']} cores.\n"
    )
    for layout, found in model["layouts"].items():
        yield f"\n{layout.capitalize()} layers:\n"
        yield "| precision | weights | arguments | temporaries | both | step time |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for name, row in found.items():
            low, high = row["ratio_range"]
            both = row["arguments"] + row["temporaries"]
            sizes = map(megabytes, (row["weights"], row["arguments"], row["temporaries"], both))
            yield f"| {name} | {' | '.join(sizes)} | {row['ratio']:.2f} ({low:.2f} to {high:.2f}) |"
    yield "\nHow far the numbers of that step are from float32's (root mean square, of float32's own):\n"
    yield "| precision | logits | gradient of the prompt | same most likely token |"
    yield "| --- | --- | --- | --- |"
    for name, row in model["layouts"]["scanned"].items():
        yield (
            f"| {name} | {row['logits_distance']:.2%} | {row['gradient_distance']:.2%} | "
            f"{row['same_first_token']:.1%} |"
        )


def embedded_table(embedded):
    exact = embedded["pairs"][0]["scores"]
    tasks = len({key.split("/")[0] for key in exact})
    yield (
        f"Prompt tuning of {tasks} target tasks on the shipped model, {SHOTS} examples, {STEPS} steps, "
        f"{len(SEEDS)} seeds; test split, up to {SCORED} examples a task, exact match or accuracy. Mean over "
        "tasks ± standard deviation over seeds; the difference to float32 throughout, over pairs of task and "
        "seed, ± its standard error.\n"
    )
    yield "| trained in | run in | score | difference |"
    yield "| --- | --- | --- | --- |"
    for pair in embedded["pairs"]:
        scores = pair["scores"]
        by_seed = [np.mean([v for k, v in scores.items() if k.endswith(f"/{s}")]) for s in SEEDS]
        differences = np.array([scores[key] - exact[key] for key in exact])
        error = differences.std(ddof=1) / np.sqrt(len(differences))
        shown = "" if scores is exact else f"{differences.mean():+.3f} ± {error:.3f}"
        yield (
            f"| {pair['trained']} | {pair['served']} | {np.mean(by_seed):.3f} ± "
            f"{np.std(by_seed, ddof=1):.3f} | {shown} |"
        )


HEAD = """\
# The precision of the frozen weights

This page is written by

    python benchmarks/backbone_precision.py --output=docs/precision.json --markdown=docs/precision.md

`backbone.BackboneSource.weights` says how the frozen weights are kept: `"float32"`, `"bfloat16"` or
`"int8"`; without it, in `backbone.BackboneSource.dtype`, which says what is computed with. Below, "int8
in bfloat16" are int8 weights, computed with in bfloat16. Only linear kernels and the vocabulary table
become int8, with a float32 scale for each output or row; `mpt_jax/models/weight_precision.py` has the
details. Prompts are always trained in float32.
"""


def page(result):
    lines = [HEAD]
    if "model" in result:
        lines += ["## Memory, time and logits at Base size\n", *model_tables(result["model"])]
    if "embedded" in result:
        lines += ["\n## Accuracy of prompts\n", *embedded_table(result["embedded"])]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="t5-v1_1-base")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("model", "embedded"))
    parser.add_argument("--output", type=Path, required=True, help="JSON of all numbers")
    parser.add_argument("--markdown", type=Path, help="the page made of them")
    args = parser.parse_args()
    result = json.loads(args.output.read_text()) if args.only and args.output.exists() else {}
    if args.only != "embedded":
        result["model"] = measure_model(args.size, args.rounds)
        write_whole(args.output, (json.dumps(result, indent=1) + "\n").encode())
    if args.only != "model":
        result["embedded"] = measure_embedded()
        write_whole(args.output, (json.dumps(result, indent=1) + "\n").encode())
    text = page(result)
    if args.markdown:
        write_whole(args.markdown, text.encode())
    print(text)


if __name__ == "__main__":
    main()
