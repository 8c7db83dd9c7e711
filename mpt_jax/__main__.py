"""`python -m mpt_jax` is `mpt`."""

import sys

from mpt_jax.cli import main

sys.exit(main())
