"""What has to work where TensorFlow is not installed: answering, and training from a filled store."""

import json
import subprocess
import sys
import textwrap

from mpt_jax.data import store

SCRIPT = textwrap.dedent(
    """
    import json, sys

    def none_loaded(*names):
        assert not set(names) & set(sys.modules), set(names) & set(sys.modules)

    backbone, stores, run, infer = json.loads(sys.argv[1])

    from mpt_jax.cli import main
    assert main(infer) == 0
    none_loaded("tensorflow", "seqio", "torch", "matplotlib")

    from pathlib import Path
    import jax
    import jax.numpy as jnp
    from mpt_jax.data.store import find_store
    from mpt_jax.methods.bank import Bank
    from mpt_jax.methods.initialisers import sampled_vocabulary
    from mpt_jax.methods.prompt_tuning import PromptTuning
    from mpt_jax.stages.backbone import BackboneSource
    from mpt_jax.stages.design import Design
    from mpt_jax.stages.fleet import Member, Program, train_fleet
    from mpt_jax.stages.training import Training
    from mpt_jax.training.objectives import TaskObjective

    frozen = BackboneSource(backbone).open()
    lengths = {"inputs": 10, "targets": 6}
    train = find_store(stores, "toy_head", "train", lengths)
    method = PromptTuning(members=1, tasks=1, length=3, width=16)
    bank = Bank((method,), frozen.config.vocab_size)
    start = method.init(jax.random.key(0), sampled_vocabulary, jnp.asarray(frozen.embeddings))
    before = jax.device_get(start)["prompt"]
    training = Training(steps=3, rows_per_member=8)
    program = Program(bank, (Member("toy", 0, 0, ("toy_head",), (train,), ()),))
    trained = train_fleet(
        "train", Path(run), frozen, program, {method.name: start},
        Design(bank, TaskObjective(frozen.network, bank), [(".*", training.group(0.3))]),
        training, lengths,
    )
    assert abs(trained.params[method.name]["prompt"] - before).max() > 0.01
    none_loaded("tensorflow", "seqio")
    """
)


def test_answering_and_training(toy, whole_job, tmp_path):
    assert store.find_store(toy.stores, "toy_head", "train", {"inputs": 10, "targets": 6})
    texts, answers = tmp_path / "texts.txt", tmp_path / "answers.txt"
    texts.write_text("badge\nkit\n")
    infer = toy.flags("infer", None, **{"infer.run.max_output_length": 4}) + [
        f"--prompts={whole_job / 'teach'}", "--task=toy_head",
        f"--input={texts}", f"--output={answers}",
    ]  # fmt: skip
    arguments = json.dumps([str(toy.backbone), str(toy.stores), str(tmp_path / "run"), infer])
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, arguments], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert len(answers.read_text().splitlines()) == 2
    assert (tmp_path / "run" / "metrics" / "train.jsonl").is_file()
