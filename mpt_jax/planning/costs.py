"""What a step costs on a chip, estimated before anything is compiled: to try the cheapest first."""

import dataclasses
import math

import numpy as np

from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.t5_config import T5Config
from mpt_jax.models.weight_precision import kept_dtype
from mpt_jax.planning.chips import Chip
from mpt_jax.planning.matmul_flops import Shape, attention_flops, backward_flops, forward_flops


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step does with the network.

    Attributes:
        config: of the network; its `remat` counts.
        shape: of the whole batch.
        teacher: whether there is a second, gradient-free pass.
        of_weights: whether all weights are trained.
    """

    config: T5Config
    shape: Shape
    teacher: bool
    of_weights: bool

    @property
    def useful(self) -> float:
        """Matmul FLOPs that the mathematics needs."""
        forward = forward_flops(self.config, self.shape) * (1 + self.teacher)
        return forward + backward_flops(self.config, self.shape, of_weights=self.of_weights)

    @property
    def executed(self) -> float:
        """With what is computed a second time to save memory."""
        again = {
            "none": 0.0,
            "dots": attention_flops(self.config, self.shape),
            "full": forward_flops(self.config, self.shape),
        }
        return self.useful + again[self.config.remat]

    @property
    def passes(self) -> int:
        """Times that every weight is read for one batch."""
        return 2 + self.teacher + (self.config.remat == "full")


def weight_bytes(config: T5Config) -> int:
    """Of the whole backbone as it is kept."""
    return sum(
        math.prod(shape) * kept_dtype(path, config).itemsize
        for path, shape in parameter_shapes(config).items()
    )


def step_seconds(work: Work, chip: Chip, data: int, model: int, accumulate: int) -> float:
    """A lower bound of a step's time: products at the peak or weights at HBM speed, and all-reduces.

    Unknown figures of a chip count as infinite speed.
    """
    config, shape = work.config, work.shape
    compute = work.executed / (data * model) / (chip.peak or math.inf)
    reads = weight_bytes(config) / model * work.passes * accumulate / (chip.bandwidth or math.inf)
    sent = 0.0
    if model > 1:  # two all-reduces of the activations in each block and pass
        tokens = 1.0 * shape.inputs * config.num_encoder_layers
        tokens += shape.targets * config.num_decoder_layers * 1.5
        size = np.dtype(np.float16).itemsize if config.dtype == "bfloat16" else 4
        sent = 2 * work.passes * shape.rows / data * tokens * config.emb_dim * size
    return max(compute, reads) + sent / (chip.interconnect or math.inf)
