"""Packages that others import in passing, where they are installed, and that nothing here needs."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """In a `with` block these look as if they were not installed, unless they are imported already.

    For imports of others that only try them: TensorBoard's writer does with torch, Keras with
    scikit-learn. Each takes seconds and hundreds of megabytes.
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: no such module
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
