"""YAML text -> plain values, with the line of every key and item, and every mistake found on the way."""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

ODD_BLANKS = re.compile(r"[\u00a0\u2000-\u200b\u202f\u3000]")
MAX_NODES = 100_000  # aliases can make a file of a few lines unfold to billions of values
PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The safe loader, which also reads 1e-4 as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass
class Document:
    """What a YAML text holds: `value`, the 1-based line of each path in it, and problems as (line, sentence)."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(text: str) -> Document:
    """Return the document; a text that doesn't parse, tags, duplicated keys and cycles are its `problems`."""
    document = Document()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.value = _Walk(loader, document).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.problems.append((1 if mark is None else mark.line + 1, f"not valid YAML: {_sentence(error)}"))
        document.problems += _odd_blanks(text)
    except yaml.YAMLError as error:
        document.problems.append((1, f"not valid YAML: {error}"))
    return document


def _sentence(error: yaml.MarkedYAMLError) -> str:
    said = ", ".join(part for part in (error.context, error.problem) if part)
    if "found character '\\t'" in said:
        return f"{said}; indent with spaces, not tabs"
    return said


def _odd_blanks(text: str) -> list[tuple[int, str]]:
    """Return (line, what) of the first blank that looks like one and is none, as web pages and word processors have."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := ODD_BLANKS.search(line):
            return [(number, f"has U+{ord(found[0]):04X}, which looks like a blank and is none; write a blank there")]
    return []


class _Walk:
    """Turns nodes into values and notes their lines."""

    def __init__(self, loader: _Loader, document: Document) -> None:
        self.loader, self.document = loader, document
        self.above: list[int] = []
        self.seen = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.seen += 1
        if self.seen > MAX_NODES or id(node) in self.above:
            raise yaml.MarkedYAMLError(problem="aliases unfold without end", problem_mark=node.start_mark)
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag not in PLAIN:
            self._refuse_tag(node)
            return None
        self.above.append(id(node))
        value = self._plain(node, path)
        self.above.pop()
        return value

    def _refuse_tag(self, node: yaml.Node) -> None:
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        if tag == "timestamp":
            said = f"{node.value} would be read as a date; put it in quotes"
        else:
            said = f"the tag !{tag.lstrip('!')} is not allowed: a sweep file holds plain values and never runs code"
        self.document.problems.append((node.start_mark.line + 1, said))

    def _plain(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict:
        first: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            self._check_key(key_node, first)
        self.loader.flatten_mapping(node)
        found = {}
        for key_node, value_node in node.value:
            key = key_node.value
            self.document.lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, (*path, key))
        return found

    def _check_key(self, node: yaml.Node, first: dict[Hashable, int]) -> None:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=node.start_mark)
        if node.value in first:
            said = f"{node.value}: given twice, first in line {first[node.value]}; keep one"
            self.document.problems.append((line, said))
        first.setdefault(node.value, line)
