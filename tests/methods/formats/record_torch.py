"""Records a prompt as ATTEMPT saves it: `python record_torch.py`. Needs torch.

Writes `recorded/prefix_embeddings_cola.pt`, which test_torch_file.py reads: one task's slice of a
parameter [N, P, D], saved by torch 2.13, and the very numbers as `.npy`.
"""

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "recorded"

numbers = np.random.default_rng(5).normal(size=(2, 3, 4)).astype(np.float32)
parameter = torch.nn.Parameter(torch.tensor(numbers))
torch.save(parameter[1], FOLDER / "prefix_embeddings_cola.pt")
np.save(FOLDER / "prefix_embeddings_cola.npy", numbers[1])
