"""Each of these tests registers tasks of its own; the registries are the process's, so they are put back."""

import sys

import pytest


@pytest.fixture(autouse=True)
def own_registries():
    seqio = sys.modules.get("seqio")
    registries = (seqio.TaskRegistry, seqio.MixtureRegistry) if seqio else ()
    kept = [(registry, registry._REGISTRY) for registry in registries]
    for registry in registries:
        registry.reset()
    yield
    for registry, tasks in kept:
        registry._REGISTRY = tasks
