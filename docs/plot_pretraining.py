"""Draws docs/pretraining.png, the curve of the embedded backbone, from docs/pretraining.jsonl."""

import json
from pathlib import Path

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
rows = [json.loads(line) for line in (HERE / "pretraining.jsonl").read_text().splitlines()]

figure, (loss, exact) = plt.subplots(1, 2, figsize=(9, 3.4), dpi=150, constrained_layout=True)
for kind, label in (("word", "tasks on words"), ("long", "language and restoring")):
    points = [(row["step"], *row[kind]) for row in rows if kind in row]
    steps, losses, exacts = zip(*points, strict=True)
    loss.plot(steps, losses, label=label)
    exact.plot(steps, exacts, label=label)
loss.set_ylim(0, 2.5)
loss.set_ylabel("loss, nats a token")
exact.set_ylim(0, 1)
exact.set_ylabel("whole target right")
for axes in (loss, exact):
    axes.axvline(1000, color="0.7", linestyle=":")
    axes.axvline(5000, color="0.7", linestyle="--")
    axes.set_xlabel("step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
figure.savefig(HERE / "pretraining.png")
