"""The tables of Wang et al. 2023: what was published, and our scores beside it."""
