"""Where commands print: terminals, and logs that break no line."""

import os
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.rule import Rule
from rich.text import TextType

LOG_WIDTH = 10_000  # of what is no terminal: a line that is cut at an edge nobody sees spoils grep
RULE_WIDTH = 80


class Output(Console):
    """A console without highlighting. Output that is no terminal has no edge, unless COLUMNS says so.

    Args:
        options: of rich's console.
    """

    def __init__(self, **options: Any):
        super().__init__(highlight=False, **options)
        if not (self.is_terminal or "width" in options or "COLUMNS" in os.environ):
            self.width = LOG_WIDTH

    def rule(self, title: TextType = "", **options: Any) -> None:
        """As rich has it, but not as wide as a log may be."""
        width = max(RULE_WIDTH, cell_len(str(title)) + 3)
        self.print(Rule(title, **options), width=min(width, self.width))
