"""What a compiled step needs of its devices: topologies without the hardware, memory, FLOPs, collectives."""
