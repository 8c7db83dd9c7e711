"""Shipped seqio task registrations, imported as mpt_jax.tasks; one module a family."""
