"""Texts in, texts out, with a trained prompt.

    echo "walk" | mpt infer --prompts=runs/adapt --task=inflect_past
    mpt infer --prompts=my_task.safetensors --input=texts.txt --output=answers.txt

Needs neither seqio nor the task's registration: the prompt file says which backbone it belongs to.
"""

import argparse
import sys

import numpy as np

from mpt_jax.data.examples import Example
from mpt_jax.data.vocabularies import EOS_ID
from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.prompt_file import PromptFile
from mpt_jax.places import exists, read_text, write_new_text
from mpt_jax.stages import prompts as prompt_files
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.predict import Decoding, Job, Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", help="a run directory or a prompt file")
    parser.add_argument("--task", help="whose prompt; needed where there are several")
    parser.add_argument("--name", help="which prompt file of the run, as `mpt show` lists them")
    parser.add_argument("--input", help="a file with one text a line; standard input by default")
    parser.add_argument(
        "--output", help="a new file for one answer a line; standard output by default"
    )


def run(
    prompts: str,
    task: str | None = None,
    name: str | None = None,
    input: str | None = None,
    output: str | None = None,
    max_input_length: int = 512,
    max_output_length: int = 64,
    batch_size: int = 64,
    decoding: Decoding = Decoding(),
    backbone: BackboneSource = BackboneSource(),
) -> None:
    """Answers each line of the input, in one line (breaks inside an answer become spaces).

    Args:
        prompts: a run directory, a folder of prompt files, or one file.
        task: whose prompt.
        name: of the prompt file, where the run has several for the task.
        input: path of the texts, one a line; standard input if None.
        output: path of a new file; standard output if None.
        max_input_length: longer texts are cut, in tokens, with a warning.
        max_output_length: most tokens of an answer.
        batch_size: rows of a batch.
        decoding: greedy, beam or sampling.
        backbone: the frozen model, the one of the prompts.

    Raises:
        UserError: no such prompt, several that fit, another backbone, or an output file that exists.
    """
    if output is not None and exists(output):
        raise UserError(f"--output: {output} exists; nothing is overwritten, name a new file.")
    if decoding.method == "choices":
        raise UserError("decoding by choices needs a task's labels; use greedy, beam or sample.")
    frozen = backbone.open()
    (loaded,) = prompt_files.load_banks(_choose(prompts, task, name, frozen), frozen.config)
    ((virtual_ids, member),) = loaded.places.values()
    text = sys.stdin.read() if input is None else _read(input)
    lines = text.removesuffix("\n").split("\n")
    if not text:
        raise UserError("There is no input: give --input=FILE, or texts on standard input.")
    examples = _Texts(lines, frozen, max_input_length)
    longest = int(examples.lengths()[:, 0].max())
    predictor = Predictor(
        frozen, loaded.bank, batch_size=min(batch_size, len(lines)),
        feature_lengths={"inputs": longest, "targets": max_output_length}, decoding=decoding,
    )  # fmt: skip
    jobs = [Job("infer", virtual_ids, examples, member)]
    answers = predictor.texts(loaded.params, jobs)[0]
    result = "".join(f"{' '.join(answer.splitlines())}\n" for answer in answers)
    if output is None:
        sys.stdout.write(result)
    else:
        write_new_text(output, result)


def _read(input: str) -> str:
    try:
        return read_text(input)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--input={input} cannot be read: {error}") from error


def _choose(
    source: str, task: str | None, name: str | None, backbone: Backbone
) -> dict[str, PromptFile]:
    """The one file that is meant, by its name, with the one task."""
    files = prompt_files.load_run(source, backbone)
    found = [(n, t) for n, file in files.items() for t in file.metadata.task_names]
    if task is not None and not any(t == task for _, t in found):
        raise unknown_name(f"task in {source}", task, {t for _, t in found})
    if name is not None and not any(n == name for n, _ in found):
        raise unknown_name(f"prompt file in {source}", name, {n for n, _ in found})
    fitting = [key for key in found if task in (None, key[1]) and name in (None, key[0])]
    if len(fitting) != 1:
        listed = "\n  ".join(f"--name={n} --task={t}" for n, t in fitting[:10])
        more = f"\n  ... and {len(fitting) - 10} more" if len(fitting) > 10 else ""
        raise UserError(f"{len(fitting)} prompts in {source} fit; choose one by\n  {listed}{more}")
    ((chosen, chosen_task),) = fitting
    return {chosen: files[chosen].take([chosen_task])}


class _Texts:
    """Lines of text as examples without targets."""

    def __init__(self, lines: list[str], backbone: Backbone, max_length: int):
        encoded = [backbone.vocabulary.encode(line) for line in lines]
        cut = sum(len(ids) > max_length - 1 for ids in encoded)
        if cut:
            print(
                f"mpt: {cut} texts are longer than {max_length} tokens and were cut",
                file=sys.stderr,
            )
        end = np.array([EOS_ID], np.int32)
        self._examples = [
            Example(np.array([*ids[: max_length - 1], EOS_ID], np.int32), end, line, "")
            for line, ids in zip(lines, encoded, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def read(self, indices: object) -> list[Example]:
        return [self._examples[int(i)] for i in indices]  # type: ignore[attr-defined]

    def lengths(self) -> np.ndarray:
        return np.array([[len(e.inputs), len(e.targets)] for e in self._examples], np.int32)
