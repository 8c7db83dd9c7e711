"""What every test runs under: eight CPU devices, strict numerics, checked shapes, warnings as errors."""

import gc
import importlib
import itertools
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# Before the first import of jax: afterwards the number of devices is settled. Tests that start processes
# of one device set it to 1 again.
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Compiling takes a quarter of the time if LLVM does not optimise and XLA writes fusions in its older way;
# running models as small as the tests' takes no longer. Collectives and matrix products are the same. XLA's
# own flags, which a user's CPU has, are tested by tests/benchmarks and by the quickstart of .ci/run.
CHEAP_COMPILING = "--xla_backend_optimization_level=0"
# jaxlib 0.11.2 and later end the process at a flag that they no longer know.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    CHEAP_COMPILING += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{CHEAP_COMPILING} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# readline, which pytest imports, sets it for the workers of pytest-xdist, and commands' output would be cut.
os.environ.pop("COLUMNS", None)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Shared by all runs of this user, so that only the first one pays for compiling, and inherited by
# the processes that tests start. Entries are keyed by program, flags and jaxlib version.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(tempfile.gettempdir()) / f"mpt_jax-test-xla-cache-{os.getuid()}"),
)
# Also the small programs, as `mpt` does: there are many, and every process and run has the same again.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import beartype  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The int-is-a-float tower, because `learning_rate=1` is good Python for `learning_rate: float`.
typechecker = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
sys.modules["mpt_jax_test_typechecker"] = sys.modules[__name__]
jaxtyping.install_import_hook("mpt_jax", "mpt_jax_test_typechecker.typechecker")

# The C library must not keep all that the largest step of any test has freed: `mpt` asks for it in this
# process, which does not end with the run.
host_memory = importlib.import_module("mpt_jax.host_memory")
host_memory.keep_freed_memory = lambda mesh: None

MOST_RESIDENT = 4 << 30  # bytes
THIRD_PARTY_WARNINGS = ()


def pytest_collection_modifyitems(config, items):
    for item in items:
        for warning in THIRD_PARTY_WARNINGS:
            item.add_marker(pytest.mark.filterwarnings(warning))
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        items[:] = long_ones_first(items, workers)


def long_ones_first(items, workers):
    """The tests in the order for `pytest -n`, which gives each worker one stretch of it to begin with.

    The modules with the most slow tests come first in every stretch, so that at the end, when those who
    are done take from the others, only short tests are left. A module's tests stay together.
    """
    modules = [list(tests) for _, tests in itertools.groupby(items, key=lambda item: item.path)]
    slow = {
        i: sum(test.get_closest_marker("slow") is not None for test in tests)
        for i, tests in enumerate(modules)
    }
    first = sorted((i for i in slow if slow[i]), key=lambda i: -slow[i])
    short = [test for i, tests in enumerate(modules) if not slow[i] for test in tests]
    ordered = []
    for worker in range(workers):
        stretch = [test for i in first[worker::workers] for test in modules[i]]
        wanted = len(items) * (worker + 1) // workers - len(ordered) - len(stretch)
        ordered += [*stretch, *short[: max(wanted, 0)]]
        short = short[max(wanted, 0) :]
    return ordered + short


@pytest.fixture(scope="module", autouse=True)
def memory_of_a_module():
    """Keeps a worker's memory, and the time for looking through it, from growing with every module.

    What is alive at a module's end (TensorFlow alone has 400,000 objects) is not looked at again by the
    collections that stages ask for after each run. Programs are let go of only when memory is short, as
    most of them are wanted again.
    """
    yield
    statistics = Path("/proc/self/statm")  # of Linux
    pages = int(statistics.read_text().split()[1]) if statistics.exists() else 0
    if pages * os.sysconf("SC_PAGE_SIZE") > MOST_RESIDENT:
        gc.unfreeze()
        jax.clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture
def own_methods():
    """What a test loads by --method_module is forgotten before and behind it."""
    from mpt_jax.methods.registry import METHODS

    def forget():
        for name in [name for name in sys.modules if name.startswith("mpt_method_file_")]:
            own = sys.modules.pop(name)
            for kind, method in list(METHODS.items()):
                if method.__module__ == own.__name__:
                    del METHODS[kind]

    forget()
    yield
    forget()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder behind gs://bucket, in this process and in those that it starts; the cache is fresh."""
    from mpt_jax.places import Bucket

    known = importlib.import_module("fsspec.registry")._registry

    root, stand_in = tmp_path / "buckets", Path(__file__).parent / "buckets"
    (root / "bucket").mkdir(parents=True)
    monkeypatch.setenv("TEST_BUCKETS", str(root))
    monkeypatch.setenv("PYTHONPATH", f"{stand_in}{os.pathsep}{stand_in.parents[1]}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(stand_in)
    monkeypatch.setattr(Bucket, "_checked", set())
    known.pop("gs", None)
    yield root / "bucket"
    known.pop("gs", None)
    sys.modules.pop("gcsfs", None)
