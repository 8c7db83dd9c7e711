"""libtpu on a machine without a TPU: it is there for `mpt plan`, and is told what it would ask around for."""

import os

# The names are those of Cloud TPU's smallest slice; `mpt plan` asks for a topology by its own name.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def keep_libtpu_quiet() -> None:
    """Spares a machine without a TPU what looks like errors; call it when JAX is imported.

    JAX loads libtpu wherever it finds it. Its import has looked for chips, and where there are none it
    has set the first of these variables itself.
    """
    if os.environ.get("TPU_SKIP_MDS_QUERY") == "1":
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
