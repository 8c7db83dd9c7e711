"""Writes the tables of docs/benchmarks.md from docs/benchmarks.json, which the benchmarks write.

python docs/write_benchmarks.py
"""

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("benchmarks.md")
RESULTS = Path(__file__).with_name("benchmarks.json")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
MET = {True: "met", False: "missed", None: ""}


def page(text: str, results: dict[str, Any]) -> str:
    """The page `text` with the tables of `results` in place of those that it has."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{PAGE} has no lines {BEGIN} and {END} for the tables to stand between")
    return f"{before}{BEGIN}\n\n{tables(results)}\n{END}{after}"


def tables(results: dict[str, Any]) -> str:
    if not results:
        return "Not measured yet.\n"
    parts = []
    for result in results.values():
        about = result["settings"]
        device = about.get("device", "cpu")
        where = f"{about['cores']} CPU cores" if device == "cpu" else device
        parts.append(f"### {result['title']}\n")
        parts.append(
            f"`benchmarks/{result['name']}.py`, size {about['size']}, {about['rounds']} rounds, {where}.\n"
        )
        parts.append("| | wall or value | spread | CPU | spread | target | |")
        parts.append("| --- | --- | --- | --- | --- | --- | --- |")
        for row in result["rows"]:
            numbers = (row[key] for key in ("value", "spread", "cpu", "cpu_spread"))
            cells = [row["what"], *map(shown, numbers), row["target"], MET[row["met"]]]
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
        parts.extend(f"- {note}" for note in result["notes"])
        if result["notes"]:
            parts.append("")
    return "\n".join(parts)


def shown(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def main() -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    PAGE.write_text(page(PAGE.read_text(), results))


if __name__ == "__main__":
    main()
