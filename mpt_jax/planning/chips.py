"""What a device of each kind can do, by the maker's figures.

Sources: Google Cloud, "TPU v3", "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x" (system architecture:
HBM capacity and bandwidth, peak bf16 compute, interchip interconnect); NVIDIA's data sheets of L4, A100,
H100 SXM and H200 SXM (dense bf16). A chip of TPU v3 or TPU7x is two devices of JAX, each with half of it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        name: of the chip.
        memory: bytes of HBM.
        peak: bf16 FLOP/s of its matrix units; None where none is published.
        bandwidth: bytes/s between HBM and chip; None likewise.
        interconnect: bytes/s over all links to its neighbours; None likewise.
    """

    name: str
    memory: float
    peak: float | None = None
    bandwidth: float | None = None
    interconnect: float | None = None


# By `device_kind` of JAX.
CHIPS = {
    "TPU v3": Chip("TPU v3 (half a chip)", 16e9, 61.5e12, 450e9),
    "TPU v4": Chip("TPU v4", 32e9, 275e12, 1228e9, 300e9),
    "TPU v5 lite": Chip("TPU v5e", 16e9, 197e12, 819e9, 200e9),
    "TPU v5": Chip("TPU v5p", 95e9, 459e12, 2765e9, 600e9),
    "TPU v6 lite": Chip("TPU v6e", 32e9, 918e12, 1640e9, 448e9),
    "TPU7x": Chip("TPU7x (half a chip)", 96e9, 1153.5e12, 3690e9, 600e9),
    "NVIDIA L4": Chip("L4", 24e9, 121e12, 300e9),
    "NVIDIA A100-SXM4-40GB": Chip("A100 40 GB", 40e9, 312e12, 1555e9, 600e9),
    "NVIDIA A100-SXM4-80GB": Chip("A100 80 GB", 80e9, 312e12, 2039e9, 600e9),
    "NVIDIA H100 80GB HBM3": Chip("H100", 80e9, 989e12, 3350e9, 900e9),
    "NVIDIA H200": Chip("H200", 141e9, 989e12, 4800e9, 900e9),
}
