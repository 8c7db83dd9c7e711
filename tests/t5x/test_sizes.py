"""The gin files together with T5X's own files of the published sizes."""

import json
import subprocess
import sys

import pytest

from mpt_jax.gin_files import SHIPPED

pytest.importorskip("t5x", reason="needs T5X from its repository (docs/t5x.md)")
pytestmark = pytest.mark.slow

# Numbers of T5X's own networks, counted when they were initialised without prompts; the width.
BACKBONES = {
    "t5_1_0/base": (222_903_552, 768),
    "t5_1_1/base": (247_577_856, 768),
    "t5_1_1/small": (76_961_152, 512),
}
# As T5X's main does it, up to the model. The process is one of its own, since gin's registry is.
SCRIPT = """
import json, sys
import gin, jax, jax.numpy as jnp
from t5x.train import train
from mpt_jax.t5x.network import Transformer
from mpt_jax.t5x.optimizer import Rate

gin.configurable(train)
search_path, *sizes = sys.argv[1:]
gin.add_config_file_search_path(search_path)
for size in sizes:
    gin.clear_config(clear_constants=True)
    files = [f"t5x/examples/t5/{size}.gin", "t5x/prompts/mpt.gin", "t5x/runs/train.gin"]
    bindings = ["TASKS = ('a', 'b')", "MODEL_DIR = ''", "TRAIN_STEPS = 1", "RANK = 2"]
    bindings += ["INITIAL_CHECKPOINT_PATH = ''", "TASK_FEATURE_LENGTHS = {}"]
    # What the files offer by name can be chosen on the command line.
    bindings += ["SCHEDULE = @schedules.WarmupLinear()", "SCHEDULE_STEPS = 10"]
    bindings += ["MIXTURE_RATE = @seqio.mixing_rate_num_examples"]
    gin.parse_config_files_and_bindings(files, bindings)
    module = gin.get_configurable(Transformer)()
    ones = jnp.ones((1, 4), jnp.int32)
    init = lambda: module.init(jax.random.PRNGKey(0), ones, ones, ones, enable_dropout=False)
    params = jax.eval_shape(init)["params"]
    prompts = params["encoder"].pop("prompt")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    shapes = {name: leaf.shape for name, leaf in prompts.items()}
    with gin.config_scope("shared"):
        rates = [float(gin.get_configurable(Rate)()(jnp.int32(step))) for step in (0, 9)]
    print(json.dumps([size, count, shapes, module.config.dropout_rate, rates]))
"""


def test_backbones_keep_their_size_and_get_prompts_of_their_width():
    words = [sys.executable, "-c", SCRIPT, str(SHIPPED), *BACKBONES]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=540)
    assert ran.returncode == 0, ran.stderr[-3000:]
    rows = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")]
    assert [size for size, *_ in rows] == list(BACKBONES)
    for size, count, shapes, dropout, rates in rows:
        expected, width = BACKBONES[size]
        assert count == expected
        assert shapes == {"shared": [100, width], "u": [2, 100, 2], "v": [2, 2, width]}
        assert dropout == 0.0
        assert rates == pytest.approx([0.3, 0.3 / 9])
