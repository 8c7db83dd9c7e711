"""Templates: text with {column} fields, filled from a row of a table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from mpt_jax.errors import UserError

_TOKEN = re.compile(r"\{\{|\}\}|\{(?P<column>[^{}]*)\}|[{}]")


@dataclasses.dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        parts: (literal text, column after it or None at the end), in order.

    >>> Template.parse("inputs", "{{{a}}} and {b c}.").fill({"a": "x", "b c": "y"})
    '{x} and y.'
    """

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, what: str, text: str) -> Template:
        """Reads `text`: `{column}` is a field, `{{` and `}}` are braces. All other text is literal.

        Args:
            what: how messages call the template.

        Raises:
            UserError: a brace without its partner, a field without a name, or no field at all.
        """
        parts: list[tuple[str, str | None]] = []
        literal, place = "", 0
        for token in _TOKEN.finditer(text):
            literal += text[place : token.start()]
            place = token.end()
            if token[0] in ("{{", "}}"):
                literal += token[0][0]
            elif token[0] in ("{", "}"):
                raise UserError(
                    f"The template {what} = {text!r} has a {token[0]!r} without its partner at character "
                    f"{token.start() + 1}; a field is {{column}}, a brace itself is written twice."
                )
            elif not token["column"].strip():
                raise UserError(
                    f"The template {what} = {text!r} has a field without a name at character "
                    f"{token.start() + 1}; a field is {{column}}, braces themselves are {{{{ and }}}}."
                )
            else:
                parts.append((literal, token["column"].strip()))
                literal = ""
        if not parts:
            raise UserError(
                f"The template {what} = {text!r} names no column, so that all rows would give the same "
                "text; write {column} where a column's text is to stand."
            )
        return cls((*parts, (literal + text[place:], None)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names, each once, in order."""
        return tuple(dict.fromkeys(column for _, column in self.parts if column is not None))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text for a row; braces in its values are text."""
        return "".join(
            literal + ("" if column is None else values[column]) for literal, column in self.parts
        )
