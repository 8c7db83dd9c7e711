"""`mpt ...`, and a file that says how many programs it needed and how many the cache had.

python benchmarks/count_compilations.py FILE COMMAND ...
"""

import sys
from collections import Counter
from pathlib import Path

from mpt_jax.cli import main, prepare_process

ASKED = "/jax/compilation_cache/compile_requests_use_cache"
FOUND = "/jax/compilation_cache/cache_hits"

if __name__ == "__main__":
    prepare_process()
    import jax

    events: Counter[str] = Counter()
    jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
    code = main(sys.argv[2:])
    Path(sys.argv[1]).write_text(f"{events[ASKED]} {events[FOUND]}")
    sys.exit(code)
