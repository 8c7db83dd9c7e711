"""Makes the table of docs/plan.md: `python docs/plan_table.py FOLDER`.

Each case is one `mpt plan --json`, kept as FOLDER/<case>.json; what is there already is not run again.
Needs the extra `plan`. A case takes one to five minutes.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from mpt_jax.stages.plan_tables import as_markdown
from mpt_jax.stages.planned import Planned, Setting

ONE_VARIANT = "--gin.distill.run.variants=(@mpt/distill.Variant(),)"
# name -> stage, size, tasks, topology, more flags
CASES = {
    "xl-v5e-4x4": ("distill", "xl", 6, "v5e:4x4", ()),
    "xl-v5e-16x16": ("distill", "xl", 6, "v5e:16x16", ()),
    "xl-v5p-8x8x8": ("distill", "xl", 6, "v5p:8x8x8", ()),
    "xl-2xv5e-16x16": ("distill", "xl", 6, "2xv5e:16x16", ()),
    "xxl-v5e-4x4-m2": ("distill", "xxl", 6, "v5e:4x4", ("--model_axis=2",)),
    "xxl-v5e-4x4-m4": ("distill", "xxl", 6, "v5e:4x4", ("--model_axis=4",)),
    "xxl-v5e-16x16-m4": ("distill", "xxl", 6, "v5e:16x16", ("--model_axis=4",)),
    "xxl-2xv5e-16x16-m4": ("distill", "xxl", 6, "2xv5e:16x16", ("--model_axis=4",)),
    "teach-xl-v5e-4x4": ("teach", "xl", 16, "v5e:4x4", ()),
    "auto-xl-v5e-4x4": ("distill", "xl", 6, "v5e:4x4", ("--auto",)),
}


def command(stage: str, size: str, tasks: int, topology: str, more: tuple[str, ...]) -> list[str]:
    return [
        sys.executable, "-m", "mpt_jax", "plan", stage, f"--gin_file=models/t5_v1_1_{size}.gin",
        f"--gin_file=runs/{stage}.gin", "--gin.TRAIN_STEPS=10000", f"--tasks={tasks}",
        f"--model=t5-v1_1-{size}", "--rows_per_replica=8", f"--topology={topology}", "--json",
        *([ONE_VARIANT] if stage == "distill" else []), *more,
    ]  # fmt: skip


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plans = []
    for name, case in CASES.items():
        file = folder / f"{name}.json"
        if not file.exists():
            # Exit code 1 says that something does not fit, which is a row of the table too.
            found = subprocess.run(command(*case), stdout=subprocess.PIPE, text=True)
            with contextlib.suppress(json.JSONDecodeError):
                json.loads(found.stdout)
                file.write_text(found.stdout)
        for values in json.loads(file.read_text()) if file.exists() else []:
            del values["fits"]
            plans.append(Planned(**values | {"setting": Setting(**values["setting"])}))
    print(as_markdown(plans))
    for plan in plans:
        if plan.reason:
            print(f"\n`--auto`, {plan.model} on {plan.topology}: {plan.reason}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
