"""WebNLG's files: the challenge's XML, and the JSON that its makers' reader makes of it.

    <benchmark>
      <entries>
        <entry category="Airport" eid="Id1" size="1">
          <originaltripleset>
            <otriple>Aarhus_Airport | cityServed | "Aarhus, Denmark"@en</otriple>
          </originaltripleset>
          <modifiedtripleset>
            <mtriple>Aarhus_Airport | cityServed | "Aarhus, Denmark"</mtriple>
          </modifiedtripleset>
          <lex comment="good" lid="Id1">Aarhus Airport serves the city of Aarhus, Denmark.</lex>

    {"entries": [{"1": {"category": "Airport", "xml_id": "Id1",
      "modifiedtripleset": [{"subject": "Aarhus_Airport", "property": "cityServed", "object": "..."}],
      "lexicalisations": [{"comment": "good", "lang": "", "lex": "Aarhus Airport serves ..."}]}}, ...]}

A text in a language other than English (release 3.0 has Russian) is left out, as is an entry without
any text: the challenge hands out its test set a second time without them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

from mpt_jax.errors import UserError
from mpt_jax.tasks.data_set import Located, Place
from mpt_jax.tasks.json_files import json_document

_LANGUAGES = ("", "en")
_TEXTS = ("mtriple", "lex")  # the elements whose text is kept


def read_xml(path: str) -> Iterator[Located]:
    """The entries of an XML file that have a text.

    Yields:
        {"input": triples "subject | property | object", "category", "webnlg_id", "references"}.

    Raises:
        UserError: not XML, XML with entities of its own, or an entry without triples; with the file and
            the line.
    """
    for entry in _XmlFile(path).entries():
        if entry.references:
            yield entry.place, entry.record()


def read_json(path: str) -> Iterator[Located]:
    """The entries of a JSON file that have a text, as `read_xml` gives them.

    Raises:
        UserError: not JSON, or an entry of another structure; with the file and the line or the number
            of the entry.
    """
    entries = json_document(path)
    entries = entries.get("entries") if isinstance(entries, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{path}: there is no list 'entries'; expected WebNLG's JSON.")
    for number, numbered in enumerate(entries, start=1):
        place = Place(path, number, "entry")
        try:
            (value,) = numbered.values()
            entry = _Entry(place, value["category"], value["xml_id"])
            for triple in value["modifiedtripleset"]:
                parts = (triple["subject"], triple["property"], triple["object"])
                entry.triples.append(" | ".join(parts))
            for text in value["lexicalisations"]:
                if text["lex"].strip() and text.get("lang", "") in _LANGUAGES:
                    entry.references.append(" ".join(text["lex"].split()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{place}: {type(error).__name__}: {error}; expected an object like {{'1': "
                "{'category': ..., 'xml_id': ..., 'modifiedtripleset': [...], 'lexicalisations': [...]}}."
            ) from error
        if entry.references:
            yield place, entry.record()


@dataclasses.dataclass
class _Entry:
    place: Place
    category: str
    webnlg_id: str
    triples: list[str] = dataclasses.field(default_factory=list)
    references: list[str] = dataclasses.field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return {
            "input": self.triples,
            "category": self.category,
            "webnlg_id": self.webnlg_id,
            "references": self.references,
        }


class _XmlFile:
    """One pass through a file. expat is used directly since ElementTree does not tell lines."""

    def __init__(self, path: str):
        self._path = path
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity
        self._entries: list[_Entry] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self._language = ""

    def entries(self) -> list[_Entry]:
        try:
            self._parser.Parse(Path(self._path).read_bytes(), True)
        except expat.ExpatError as error:
            self._fail(f"is not XML: {expat.ErrorString(error.code)}", error.lineno)
        return self._entries

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "benchmark":
            self._fail(f"starts with <{name}>; expected WebNLG's <benchmark>")
        if name == "entry":
            place = Place(self._path, self._parser.CurrentLineNumber)
            category, webnlg_id = attributes.get("category", ""), attributes.get("eid", "")
            self._entries.append(_Entry(place, category, webnlg_id))
        elif name in _TEXTS:
            if "entry" not in self._open:
                self._fail(f"has a <{name}> outside of any <entry>")
            self._text = []
            self._language = attributes.get("lang", "")
        self._open.append(name)

    def _characters(self, text: str) -> None:
        # Annotated releases have elements within <lex>; their text is not the sentence's.
        if self._open and self._open[-1] in _TEXTS:
            self._text.append(text)

    def _end(self, name: str) -> None:
        self._open.pop()
        if name == "entry":
            entry = self._entries[-1]
            if not entry.triples:
                self._fail(
                    f"has an entry ({entry.webnlg_id!r}) without <mtriple>", entry.place.number
                )
        elif name in _TEXTS:
            text = " ".join("".join(self._text).split())
            if name == "mtriple":
                self._entries[-1].triples.append(text)
            elif text and self._language in _LANGUAGES:
                self._entries[-1].references.append(text)

    def _entity(self, name: str, *_: Any) -> None:
        self._fail(f"declares an entity ({name!r}), as no file of WebNLG does")

    def _fail(self, what: str, line: int | None = None) -> NoReturn:
        raise UserError(f"{self._path}, line {line or self._parser.CurrentLineNumber}: {what}.")
