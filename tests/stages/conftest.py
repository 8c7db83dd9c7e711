"""A tiny random backbone, a user's task file on made-up words, and `mpt` in this process."""

import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.data import families
from mpt_jax.data.tasks import import_seqio
from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.t5 import T5Config, init_params
from mpt_jax.partitioning import make_mesh
from mpt_jax.stages import backbone as backbone_stage
from mpt_jax.tasks.benchmark import DATA_SETS

P, D, STEPS = 3, 16, 8
ROWS = {"teach": 8, "distill": 16, "adapt": 4}
TASK_FILE = Path(__file__).with_name("toy_tasks.py")
PAPER_TABLE = Path(__file__).with_name("paper_toy.gin")
TWO_METHODS = "(@scratch/adapt.Variant(), @mpt/adapt.Variant())"
LENGTHS = {"inputs": 10, "targets": 6}


def write_backbone(folder: Path, seed: int = 0) -> Path:
    """A random T5 v1.1 of one layer on each side, with the byte vocabulary beside it."""
    config = T5Config(
        vocab_size=384, emb_dim=D, num_heads=2, head_dim=8, mlp_dim=16,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    params = jax.jit(functools.partial(init_params, config))(jax.random.key(seed))
    save_backbone(folder, config, params)
    tokenizer = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_backbone(tmp_path_factory) -> Path:
    """Of the same shape, with other weights."""
    return write_backbone(tmp_path_factory.mktemp("models") / "other", seed=1)


@dataclasses.dataclass(frozen=True)
class Toy:
    """Command lines on the tiny backbone and the toy tasks.

    Attributes:
        backbone: its folder.
        stores: root of the token stores that all tests share.
    """

    backbone: Path
    stores: Path

    def flags(self, stage: str, model_dir: Path | None, **macros: object) -> list[str]:
        """The arguments of `mpt <stage>`; macros override the small values."""
        values: dict[str, object] = {"INITIAL_CHECKPOINT_PATH": self.backbone}
        words = [stage, "--gin_file=models/embedded.gin", f"--gin_file=runs/{_file(stage)}.gin"]
        if model_dir is not None:
            words += [f"--model_dir={model_dir}", f"--task_module={TASK_FILE}"]
            values |= self.macros(stage)
        return words + gin_flags(**values | macros)

    def macros(self, stage: str) -> dict[str, object]:
        """Macros that make a stage small."""
        data = {"TASK_FEATURE_LENGTHS": LENGTHS, "STORE_DIR": self.stores}
        if stage == "evaluate":
            return data
        sources = {"MIXTURE_OR_TASK_NAME": "toy_sources"}
        targets = {"SHOTS": (4,), "SEEDS": (0, 1)}
        periods = {"PROMPT_LENGTH": P, "EVAL_PERIOD": 4, "CHECKPOINT_PERIOD": 4}
        if stage == "run":
            steps = dict.fromkeys(("TEACH_STEPS", "DISTILL_STEPS", "ADAPT_STEPS"), STEPS)
            rows = {f"{s.upper()}_BATCH_SIZE": n for s, n in ROWS.items()}
            targets["TARGET_MIXTURE_OR_TASK_NAME"] = "toy_targets"
            return data | sources | targets | periods | steps | rows
        values = data | periods | {"TRAIN_STEPS": STEPS, "BATCH_SIZE": ROWS[stage]}
        if stage == "adapt":
            return values | targets | {"MIXTURE_OR_TASK_NAME": "toy_targets"}
        return values | sources

    def paper(
        self, model_dir: Path, *more: str, methods: str = TWO_METHODS, **macros: object
    ) -> list[str]:
        """The arguments of `mpt paper` for the table of paper_toy.gin."""
        given = {"T5_TINY": self.backbone, "STORE_DIR": self.stores, **macros}
        words = [
            "paper",
            str(PAPER_TABLE),
            f"--model_dir={model_dir}",
            f"--task_module={TASK_FILE}",
        ]
        return [*words, f"--gin.METHODS={methods}", *gin_flags(**given), *more]

    def compare(self, model_dir: Path, *more: str, **macros: object) -> list[str]:
        """The arguments of `mpt compare`: three methods with two candidates each, a few steps."""
        rates = {"prompts": (0.1, 1.0), "factors": (0.3,), "network": (1e-3, 1e-2)}
        values = {
            "INITIAL_CHECKPOINT_PATH": self.backbone, **self.macros("run"),
            "METHOD": ("prompt_tuning", "mpt", "bitfit"), "ADAPT_BATCH_SIZE": 4, "SEARCH_STEPS": 4,
            "SEARCH_SEEDS": (7,), "SEARCH_RATES": rates, "SEARCH_RATIOS": {"factors": (0.5, 1.0)},
        }  # fmt: skip
        words = [
            "compare", "--gin_file=models/embedded.gin", "--gin_file=compare.gin",
            f"--model_dir={model_dir}", f"--task_module={TASK_FILE}",
        ]  # fmt: skip
        return [*words, *gin_flags(**values | macros), *more]

    def sweep(
        self, model_dir: Path, *more: str, file: str = "embedded_mixtures", **macros: object
    ) -> list[str]:
        """The arguments of `mpt sweep`: five settings, two seeds, a few steps."""
        values = {
            "INITIAL_CHECKPOINT_PATH": self.backbone, **self.macros("run"), "SWEEP_SEEDS": 2,
            "SPACE": ({"sources": "leave_one_out"}, {"rank": 2}), "POPULATION": 3,
            "FAMILIES": {"classifying": "toy_sound"}, "VALIDATION_EXAMPLES": 8, "SOURCE_EVAL_PERIOD": 4,
        }  # fmt: skip
        del values["SEEDS"]
        words = [
            "sweep", "--gin_file=models/embedded.gin", f"--gin_file=sweeps/{file}.gin",
            f"--model_dir={model_dir}", f"--task_module={TASK_FILE}",
        ]  # fmt: skip
        return [*words, *gin_flags(**values | macros), *more]

    @staticmethod
    def prompts(run: Path) -> dict[str, np.ndarray]:
        """Every array of every prompt file of a run, by file and array."""
        return {
            f"{path.relative_to(run / 'prompts')}:{name}": array
            for path in sorted((run / "prompts").rglob("*.safetensors"))
            for name, array in load_prompt_file(path).arrays.items()
        }

    @staticmethod
    def members(run: Path) -> dict[str, dict]:
        """What run.json says of each member, by name; the run must be complete."""
        record = json.loads((run / "run.json").read_text())
        assert record["complete"]
        return {member["name"]: member for member in record["members"]}

    def run(self, stage: str, model_dir: Path | None, *more: str, **macros: object) -> int:
        """The exit code of `mpt <stage>` in this process."""
        return main([*self.flags(stage, model_dir, **macros), *more])


def _file(stage: str) -> str:
    return "mpt" if stage == "run" else stage


def gin_flags(**values: object) -> list[str]:
    """--gin.NAME=VALUE for each, paths as text."""
    texts = {n: str(v) if isinstance(v, Path) else v for n, v in values.items()}
    return [f"--gin.{name}={value!r}" for name, value in texts.items()]


@pytest.fixture(scope="session")
def toy(tiny_backbone, tmp_path_factory) -> Toy:
    return Toy(tiny_backbone, tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="session")
def whole_job(toy, tmp_path_factory) -> Path:
    """A finished `mpt run` on the toy tasks, on one device. For reading only."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        use_devices(1, patch)
        assert toy.run("run", folder) == 0
    return folder


def another_worker() -> tuple[subprocess.Popen, str]:
    """A sweep's worker in a process of its own, to be killed; and its name."""
    code = (
        "import time\n"
        "from mpt_jax.stages.sweep_workers import Worker\n"
        "with Worker(lambda *_: None) as w:\n"
        "    print(w.name, flush=True); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def use_devices(count: int, patch: pytest.MonkeyPatch) -> None:
    """Stages of this process find so many of the eight forced devices."""
    devices = jax.devices()[:count]
    patch.setattr(backbone_stage, "make_mesh", lambda shape: make_mesh(shape, devices))


@pytest.fixture(autouse=True)
def devices(monkeypatch) -> Callable[[int], None]:
    """One device by default; call it for another number."""
    use_devices(1, monkeypatch)
    return lambda count: use_devices(count, monkeypatch)


@pytest.fixture
def own_benchmark(monkeypatch):
    """The benchmark's tasks go again; what modules register in passing stays, since they do it once."""
    seqio = import_seqio()
    monkeypatch.setattr(families, "_registered", {})
    yield
    for name in list(seqio.MixtureRegistry.names()):
        if any(task.name in DATA_SETS for task in seqio.MixtureRegistry.get(name).tasks):
            seqio.MixtureRegistry.remove(name)
    for name in set(seqio.TaskRegistry.names()) & set(DATA_SETS):
        seqio.TaskRegistry.remove(name)
