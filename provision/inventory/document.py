"""A YAML or JSON text as plain data, with the line of every key and item in it.

Every plain value but null stays text: the models know what a number is, and an unquoted MAC address
of digits alone is no number to base 60, as YAML 1.1 has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from provision.errors import InventoryError, Mistake

Place = tuple[str, ...]

LARGEST_FILE = 4 * 1024 * 1024
DEEPEST = 24
MOST_VALUES = 50_000
"""Far above any lab; what aliases of aliases unfold to is counted as well."""

LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
NULL = re.compile("null|Null|NULL|~|")
KINDS = ("str", "map", "seq", "null", "bool", "int", "float")
TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in KINDS)


@dataclass(slots=True)
class Document:
    """The data of one file, the line of each place in it, and the mistakes of its form.

    `called` has the user's own name of a place where that is another than the place itself.
    """

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int | None] = field(default_factory=dict)
    called: dict[Place, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def mistake(self, path: Place, message: str) -> Mistake:
        """A mistake in what the models have at this path, placed where the user wrote it."""
        place = self.written(path)
        return Mistake(self.file, self.line(place), self.called.get(place, ".".join(place)), message)

    def line(self, path: Place) -> int | None:
        """The line of the path, or of the nearest part around it that the file has."""
        place = self.written(path)
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def written(self, path: Place) -> Place:
        """Where the user wrote it: at this path, in its short form, or in the nodes' defaults."""
        if path in self.lines:
            return path
        if len(path) == 3 and path[0] in ("nodes", "networks") and path[2] == "name":
            return path[:2]
        if path[:1] != ("nodes",):
            return path
        short = tuple(part for part in path if part != "addresses")
        default = ("defaults", *short[2:])
        return default if short not in self.lines and len(short) > 2 and default in self.lines else short


def read(path: Path) -> Document:
    """The document in this file; raises InventoryError with one mistake when it cannot be read at all."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InventoryError([Mistake(str(path), None, "", f"cannot be read: {why}")]) from error
    if len(raw) > LARGEST_FILE:
        raise InventoryError([Mistake(str(path), None, "", "is larger than 4 MiB: this is no lab file")])
    try:
        return parse(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InventoryError([Mistake(str(path), line, "", "is not UTF-8 text")]) from error


def parse(text: str, file: str) -> Document:
    """The document in this text; raises InventoryError with one mistake when it is not one mapping."""
    # JSON may be indented with tabs, which YAML refuses; inside JSON's strings no raw tab can stand.
    text = text.replace("\t", " ") if text.lstrip().startswith("{") else text
    try:
        _measure(text, file)
        root = yaml.compose(text, Loader=LOADER)
    except yaml.YAMLError as error:
        raise InventoryError([_not_yaml(error, file)]) from error
    if root is None:
        raise InventoryError([Mistake(file, None, "", "is empty; a lab file begins with name: and domain:")])
    if not isinstance(root, yaml.MappingNode):
        message = "must be a mapping of keys such as name:, networks:, nodes:"
        raise InventoryError([Mistake(file, _line(root), "", message)])
    return _Reader(file).document(root)


def _measure(text: str, file: str) -> None:
    """Refuse nesting that would exhaust the composer's stack."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            message = f"is nested more than {DEEPEST} deep: this is no lab file"
            raise InventoryError([Mistake(file, _line(event), "", message)])


def _line(part: yaml.Node | yaml.Event) -> int | None:
    mark = part.start_mark
    return mark.line + 1 if mark is not None else None


def _not_yaml(error: yaml.YAMLError, file: str) -> Mistake:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed")
    if "alias" in problem or "tag" in problem:
        # YAML's own words repeat the value, and the value may be somebody's password.
        problem = "quote a value that begins with * or !"
    return Mistake(file, mark.line + 1 if mark else None, "", f"is not YAML: {problem}")


class _Reader:
    """Turns YAML's node tree into plain data, once, with a count of what it has made."""

    def __init__(self, file: str) -> None:
        self._document = Document(file)
        self._left = MOST_VALUES
        self._open: list[int] = []

    def document(self, root: yaml.MappingNode) -> Document:
        self._document.data = self._mapping(root, ())
        return self._document

    def _value(self, node: yaml.Node, place: Place) -> object:
        self._left -= 1
        if self._left < 0 or id(node) in self._open:
            message = "its aliases unfold without end: this is no lab file"
            raise InventoryError([Mistake(self._document.file, _line(node), "", message)])
        if node.tag not in TAGS:
            self._wrong(node, place, "has a YAML tag; quote a value that begins with !")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, place)
        # libyaml has no style for what is written plainly: "" in its loader, None in Python's.
        plain = isinstance(node, yaml.ScalarNode) and not node.style
        return None if plain and NULL.fullmatch(node.value) else node.value

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        self._open.append(id(node))
        found: dict[str, Any] = {}
        for key, value, line in self._pairs(node, place):
            inner = (*place, key)
            if key in found:
                self._wrong(node, inner, f"stands twice (line {self._document.lines[inner]})", line)
                continue
            self._document.lines[inner] = line
            found[key] = self._value(value, inner)
        self._open.pop()
        return found

    def _pairs(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[str, yaml.Node, int | None]]:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._wrong(key, place, "has a key that is not a word")
            elif re.search(r"[\s:]", key.value):
                # What follows was meant as a value, and may be a secret.
                before = re.split(r"[\s:]", key.value)[0]
                self._wrong(key, (*place, before), "needs a colon and a space before its value")
            else:
                yield key.value, value, _line(key)

    def _sequence(self, node: yaml.SequenceNode, place: Place) -> list[Any]:
        self._open.append(id(node))
        found = []
        for index, item in enumerate(node.value):
            inner = (*place, str(index))
            self._document.lines[inner] = _line(item)
            self._document.called[inner] = ".".join(place)
            found.append(self._value(item, inner))
        self._open.pop()
        return found

    def _wrong(self, node: yaml.Node, place: Place, message: str, line: int | None = None) -> None:
        where = line or _line(node)
        self._document.mistakes.append(Mistake(self._document.file, where, ".".join(place), message))
