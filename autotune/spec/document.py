"""Document: one YAML file as plain values, with the line of every key. Nothing in the file can run code or fill the memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autotune.errors import SpecError, SpecProblem
from autotune.spec.positions import Positions, dotted, shown

# A study file is a page of text; these are far above any honest one and keep a hostile one (aliases of aliases) cheap.
MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
MAX_DEPTH = 32
MAX_MERGES = 100

Location = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"
_SCALARS = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str")}


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 1e-3 as a number, as YAML 1.2 does; PyYAML's YAML 1.1 reads it as text."""


_Loader.add_implicit_resolver(f"{_TAG}float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The file's values (dict, tuple, str, int, float, bool, None), where they stand, and the faults of its form."""

    values: dict[str, Any]
    positions: Positions
    problems: tuple[SpecProblem, ...] = ()


def read_document(path: Path) -> Document:
    """The YAML file at `path`, as with `yaml.safe_load`, but lists as tuples and with the lines kept.

    Raises SpecError when it cannot be read or parsed at all; duplicate keys, foreign tags and keys that are not text are
    listed in `problems` instead, so that the caller can go on and find the rest.
    """
    text = _text(path)
    try:
        _require_modest(path, text)
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise _form_error(path, line, " ".join(filter(None, (exc.context, exc.problem))), "YAML") from exc
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise _form_error(path, line, "a character that YAML does not allow", "printable text in UTF-8") from exc
    if not isinstance(root, yaml.MappingNode):
        found = "nothing" if root is None else "a list" if isinstance(root, yaml.SequenceNode) else "one value"
        raise _form_error(path, 1, found, "keys with values, such as `study: my-model`")
    reader = _Reader(file=str(path), loader=loader)
    values = reader.mapping(root, ())
    return Document(values=values, positions=Positions(file=str(path), lines=reader.lines), problems=tuple(reader.problems))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as exc:
        raise _form_error(path, None, exc.strerror or str(exc), "a YAML file that can be read") from exc
    if len(content) > MAX_BYTES:
        raise _form_error(path, 1, f"more than {MAX_BYTES // 1024} KiB", f"at most {MAX_BYTES // 1024} KiB of YAML")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise _form_error(path, line, f"the byte 0x{content[exc.start]:02x}", "text in UTF-8") from exc


def _require_modest(path: Path, text: str) -> None:
    """Raises SpecError on too many or too deeply nested nodes, before any tree is built (PyYAML's builder recurses)."""
    depth = 0
    for n, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if n > MAX_NODES or depth > MAX_DEPTH:
            found = f"nesting deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else f"more than {MAX_NODES} values"
            raise _form_error(path, _line(event), found, "a study file of ordinary size")


def _line(node: yaml.Node | yaml.Event) -> int:
    return int(node.start_mark.line) + 1 if node.start_mark else 1


def _form_error(path: Path, line: int | None, found: str, allowed: str) -> SpecError:
    return SpecError([SpecProblem(key="file", found=found, allowed=allowed, file=str(path), line=line)])


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Walks the node tree once; counts what it makes, because an alias may stand for a large part of the tree."""

    file: str
    loader: Any
    lines: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    problems: list[SpecProblem] = field(default_factory=list)
    made: int = 0
    merges: int = 0

    def mapping(self, node: yaml.MappingNode, where: Location) -> dict[str, Any]:
        if node.tag != f"{_TAG}map":
            self._foreign(node, where)
        found: dict[str, Any] = {}
        own: dict[str, int] = {}
        merges = [value_node for key_node, value_node in node.value if key_node.tag == f"{_TAG}merge"]
        for source in (source for merge in merges for source in self._merged(merge)):
            found = {**self.mapping(source, where), **found}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if key_node.tag == f"{_TAG}merge":
                continue
            key = self._scalar(key_node, where) if isinstance(key_node, yaml.ScalarNode) else key_node.id
            if not isinstance(key, str):
                self._fault(where, line, f"the key {shown(key)}", "keys that are text; quote it")
            elif key in own:
                self._fault((*where, key), line, f"the key a second time (first in line {own[key]})", "each key once")
            else:
                own[key] = line
                self.lines[dotted((*where, key))] = (self.file, line)
                found[key] = self._value(value_node, (*where, key))
        return found

    def _value(self, node: yaml.Node, where: Location) -> Any:
        self.made += 1
        if self.made > MAX_NODES or len(where) > MAX_DEPTH:
            found = "aliases that stand for too many values"
            raise _form_error(Path(self.file), _line(node), found, f"at most {MAX_NODES} values")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, where)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, where)
        if node.tag != f"{_TAG}seq":
            return self._foreign(node, where)
        items = []
        for i, item in enumerate(node.value):
            self.lines[dotted((*where, i))] = (self.file, _line(item))
            items.append(self._value(item, (*where, i)))
        return tuple(items)

    def _scalar(self, node: yaml.ScalarNode, where: Location) -> Any:
        if node.tag == f"{_TAG}timestamp":
            return node.value
        if node.tag not in _SCALARS:
            return self._foreign(node, where)
        try:
            value = self.loader.construct_object(node)
        except (ValueError, KeyError, IndexError, OverflowError, yaml.YAMLError):
            self._fault(where, _line(node), shown(node.value), f"a value of the type {node.tag.removeprefix(_TAG)}")
            return None
        # NUL and lone surrogates, which escapes can write, fit in no file name and no database
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            self._fault(where, _line(node), ascii(value)[:100], "text without NUL and without halves of characters")
            return None
        return value

    def _foreign(self, node: yaml.Node, where: Location) -> None:
        self._fault(where, _line(node), f"the tag {node.tag.replace(_TAG, '!!')}", "plain values without a tag")

    def _merged(self, node: yaml.Node) -> Iterator[yaml.MappingNode]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            self.merges += 1
            if isinstance(source, yaml.MappingNode) and self.merges <= MAX_MERGES:
                yield source
            else:
                self._fault((), _line(source), "a merge key (<<) of this", "an alias of a section")

    def _fault(self, where: Location, line: int, found: str, allowed: str) -> None:
        key = dotted(where) or "file"
        self.problems.append(SpecProblem(key=key, found=found, allowed=allowed, file=self.file, line=line))
