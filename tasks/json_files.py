"""Files that are one JSON document."""

from __future__ import annotations

import json
from typing import Any

from mpt_jax.errors import UserError


def json_document(path: str) -> Any:
    """What a file in UTF-8 holds.

    Raises:
        UserError: it is not JSON, with the line, or not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} of the file is not UTF-8.") from error
    except RecursionError as error:
        raise UserError(f"{path}: JSON that is nested too deep to be a data set.") from error
