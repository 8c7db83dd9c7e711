"""The heat map of how near the tasks' prompts are to each other."""

from pathlib import Path

import numpy as np

from mpt_jax.reporting.figures import FAINT, draw, heading, short
from mpt_jax.reporting.layout import number
from mpt_jax.reporting.results import Similarity


def similarity_map(similarity: Similarity, path: Path) -> Path | None:
    """Cosine of each pair of tasks, neighbours beside each other; None for fewer than two tasks."""
    cosine = np.asarray(similarity.cosine, np.float64)
    if len(cosine) < 2 or not np.isfinite(cosine).any():
        return None
    order = clustered_order(cosine)
    cosine = cosine[np.ix_(order, order)]
    names = [short(similarity.tasks[i]) for i in order]
    n = len(names)
    apart = ~np.eye(n, dtype=bool) & np.isfinite(cosine)
    low, high = float(cosine[apart].min()), float(cosine[apart].max())
    if low < 0:  # two-sided colours, white at no similarity
        high = max(-low, high, 0.1)
        low, colours = -high, "RdBu_r"
    else:
        low, colours = (low, "YlGnBu") if high - low > 0.02 else (high - 0.02, "YlGnBu")

    def paint(figure) -> None:
        axes = figure.subplots()
        # The diagonal is 1 by definition; left grey, the colours are free for what differs.
        image = axes.imshow(np.ma.masked_array(cosine, ~apart), colours, vmin=low, vmax=high)
        axes.set_facecolor(FAINT)
        axes.set_xticks(range(n), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), names)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", axis="both", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        if n <= 16:
            for i, j in zip(*np.nonzero(apart), strict=True):
                rgb = image.cmap(image.norm(cosine[i, j]))[:3]
                dark = float(np.dot(rgb, (0.299, 0.587, 0.114))) < 0.55
                text = number(cosine[i, j], 2 if high - low > 0.05 else 3)
                axes.text(
                    j, i, text, ha="center", va="center", fontsize=9 if n <= 12 else 7.5,
                    color="white" if dark else "#222222",
                )  # fmt: skip
        bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=28, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("cosine similarity")
        heading(figure, "Similarity of task prompts", f"{similarity.what}; near tasks side by side")

    return draw(path, min(9.0, 2.9 + 0.42 * n), paint)


def clustered_order(similarity: np.ndarray) -> list[int]:
    """An order in which similar tasks stand together: the leaves of average-linkage clustering.

    When two clusters are joined, the orientation that puts their most similar ends together is taken.
    """
    near = np.nan_to_num(np.asarray(similarity, np.float64), nan=-1.0)
    clusters = [[i] for i in range(len(near))]
    while len(clusters) > 1:
        pairs = [(a, b) for a in range(len(clusters)) for b in range(a + 1, len(clusters))]
        a, b = max(pairs, key=lambda p: near[np.ix_(clusters[p[0]], clusters[p[1]])].mean())
        left, right = clusters[a], clusters[b]
        joined = max(
            (x + y for x in (left, left[::-1]) for y in (right, right[::-1])),
            key=lambda leaves: near[leaves[len(left) - 1], leaves[len(left)]],
        )
        clusters = [c for i, c in enumerate(clusters) if i not in (a, b)] + [joined]
    return clusters[0]
