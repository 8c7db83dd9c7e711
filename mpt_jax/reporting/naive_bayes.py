"""Multinomial naive Bayes over character n-grams: an outside ceiling for classifying tasks.

It learns nothing from pretraining and sees all training examples, so that it tells what the text alone
gives away. Laplace smoothing as in McCallum and Nigam 1998; n-grams that training never saw are left out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from mpt_jax.reporting.results import Ceiling

START, END = "\x02", "\x03"  # so that "ly at the end" is a feature of its own


class CharacterNaiveBayes:
    """Texts to labels by the n-grams of their characters, boundaries included.

    Args:
      orders: the lengths n of the n-grams.
      smoothing: Laplace's count that every n-gram has in every class before training.
    """

    def __init__(self, orders: Sequence[int] = (1, 2, 3, 4), smoothing: float = 1.0):
        if smoothing <= 0:
            raise ValueError(f"smoothing is {smoothing}; it has to be above 0.")
        self.orders = tuple(orders)
        self.smoothing = smoothing

    def fit(self, texts: Sequence[str], labels: Sequence[str]) -> "CharacterNaiveBayes":
        """Counts the n-grams of each class; returns itself."""
        if len(texts) != len(labels) or not texts:
            raise ValueError(
                f"got {len(texts)} texts and {len(labels)} labels; expected one label a text and at "
                "least one text."
            )
        self.labels = sorted(set(labels))
        row = {label: i for i, label in enumerate(self.labels)}
        grams = [self._grams(text) for text in texts]
        self._columns = {g: i for i, g in enumerate(sorted(set().union(*grams)))}
        counts = np.zeros((len(self.labels), len(self._columns)))
        for bag, label in zip(grams, labels, strict=True):
            columns = [self._columns[gram] for gram in bag]
            counts[row[label], columns] += list(bag.values())
        smooth = counts + self.smoothing
        self._log_gram = np.log(smooth) - np.log(smooth.sum(axis=1))[:, None]
        sizes = Counter(labels)
        self._log_prior = np.log([sizes[label] / len(labels) for label in self.labels])
        return self

    def predict(self, texts: Iterable[str]) -> list[str]:
        """The most probable label of each text; ties go to the label first in the alphabet."""
        if not hasattr(self, "_columns"):
            raise ValueError("predict before fit: call fit(texts, labels) first.")
        return [self.labels[int(np.argmax(self._log_joint(text)))] for text in texts]

    def _log_joint(self, text: str) -> np.ndarray:
        known = {g: n for g, n in self._grams(text).items() if g in self._columns}
        columns = [self._columns[gram] for gram in known]
        return self._log_prior + self._log_gram[:, columns] @ np.array(list(known.values()), float)

    def _grams(self, text: str) -> Counter[str]:
        marked = START + text + END
        return Counter(marked[i : i + n] for n in self.orders for i in range(len(marked) - n + 1))


def naive_bayes_ceiling(
    task: str,
    train: Sequence[tuple[str, str]],
    test: Sequence[tuple[str, str]],
    name: str = "naive Bayes, full data",
) -> Ceiling:
    """Accuracy (0 to 1) on `test` after fitting all of `train`; both are (input, label) pairs."""
    model = CharacterNaiveBayes().fit([x for x, _ in train], [y for _, y in train])
    predicted = model.predict(x for x, _ in test)
    hits = [p == y for p, (_, y) in zip(predicted, test, strict=True)]
    return Ceiling(task=task, name=name, score=float(np.mean(hits)), num_train=len(train))
