"""Metrics of the benchmark's tasks, and the postprocessors that make their arguments out of text.

Each metric is a function of (targets, predictions), both postprocessed and of equal number, and gives
one number under its own name. Shares, F1, BLEU, chrF and ROUGE lie between 0 and 1 (papers print 100
times that), correlations between -1 and 1; NIST and CIDEr have scales of their own. No value is ever
NaN. None needs TensorFlow; what needs a library imports it when called.

METEOR needs a WordNet that the user has; it is no metric of the data sets of generation, since the numbers
in tables are those of a Java program (`meteor.py`).
"""

from mpt_jax.tasks.metrics.grouped import Grouped
from mpt_jax.tasks.metrics.registry import METRICS, Metric, metric_functions

__all__ = ["METRICS", "Grouped", "Metric", "metric_functions"]
