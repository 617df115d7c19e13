"""YAML 1.2 with the place of every value.

PyYAML reads the syntax; values are made here by the core schema of YAML 1.2, so that ``1e-3`` is a
number, ``no`` and ``12:30`` are text, and ``017`` is 17. Every mistake is a `YamlError` with its
place; a file cannot make the reader recurse, grow or run code.

Not covered: several documents in a file, tags, merge keys, keys that are not scalars. They are
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

Path = tuple[str | int, ...]

MOST_BYTES = 1_000_000
MOST_NODES = 50_000
MOST_DEPTH = 50

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


@dataclass(frozen=True)
class Place:
    """1-based."""

    line: int
    column: int


class YamlError(Exception):
    """The text is not YAML that a study file may contain."""

    def __init__(self, message: str, place: Place | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint


@dataclass(frozen=True)
class Document:
    """What a file says and where.

    Attributes:
        value: Of dict, list, str, int, float, bool and None.
        values: Path → where the value stands.
        keys: Path → where its key stands; not for items of lists.
        lines: The text, by lines.
    """

    value: Any
    values: Mapping[Path, Place] = field(default_factory=dict)
    keys: Mapping[Path, Place] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def read(data: bytes) -> Document:
    """The document in a file's bytes.

    Raises:
        YamlError: It is not one; says where.
    """
    text = _decode(data)
    root = _compose(text)
    builder = _Builder()
    value = None if root is None else builder.build(root, ())
    return Document(value, builder.values, builder.keys, split_lines(text))


def scalar(text: str) -> Any:
    """What a plain (unquoted) scalar means.

    Raises:
        YamlError: It is a number that is too large.
    """
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    for pattern, radix in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            digits = text if radix == 10 else text[2:]
            # The length first: turning thousands of digits into a number takes quadratic time.
            if len(digits) > 64 or not -(2**63) <= (number := int(digits, radix)) < 2**63:
                raise YamlError(f"{_shortened(text)} is too large for a whole number")
            return number
    if _FLOAT.fullmatch(text):
        if abs(value := float(text)) == float("inf"):
            raise YamlError(f"{_shortened(text)} is too large for a number")
        return value
    if _INFINITY.fullmatch(text):
        return float("-inf") if text[0] == "-" else float("inf")
    return float("nan") if _NAN.fullmatch(text) else text


def split_lines(text: str) -> tuple[str, ...]:
    """The lines of `text` as PyYAML counts them."""
    return tuple(_LINE_END.split(text))


# -- bytes to text


def _decode(data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise YamlError(f"the file is larger than {MOST_BYTES // 1000:,} kB; is it a study file?")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise YamlError("the file is UTF-16 or UTF-32", hint="save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        raise YamlError(
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            _place_at_end(before),
            "save the file as UTF-8",
        ) from None
    if found := _UNPRINTABLE.search(text):
        raise YamlError(
            f"the character U+{ord(found[0]):04X} cannot stand in YAML",
            _place_at_end(text[: found.start()]),
            "remove it, or write it as an escape in double quotes",
        )
    return text


def _place_at_end(text: str) -> Place:
    ends = [match.end() for match in _LINE_END.finditer(text)]
    return Place(len(ends) + 1, len(text) - (ends[-1] if ends else 0) + 1)


# -- text to nodes


class _Loader(yaml.SafeLoader):
    """PyYAML's composer, made to count and to refuse what a study file does not need."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.nodes += 1
        if self.nodes > MOST_NODES:
            _refuse(event, f"the file has more than {MOST_NODES:,} values; is it a study file?")
        if self.depth >= MOST_DEPTH:
            _refuse(event, f"nested deeper than {MOST_DEPTH} levels")
        if (tag := getattr(event, "tag", None)) is not None:
            _refuse(
                event,
                f"tags such as {_shortened(str(tag)).replace('tag:yaml.org,2002:', '!!')} are "
                "not used in study files",
                "write the value alone; in quotes, it is text",
            )
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        return ""  # the core schema decides, in `scalar`


def _refuse(at: Any, message: str, hint: str | None = None) -> NoReturn:
    raise YamlError(message, _place(at.start_mark), hint)


def _place(mark: yaml.Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _explained(error) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # e.g. a bad %YAML or \U escape
        raise YamlError(f"not YAML: {error}", _place(loader.get_mark())) from None
    finally:
        loader.dispose()


def _explained(error: yaml.MarkedYAMLError) -> YamlError:
    """PyYAML's complaint in words for someone who does not know its grammar."""
    problem = " ".join((error.problem or "").split())
    mark = error.problem_mark or error.context_mark
    opened = error.context_mark
    hint = None
    if "'\\t'" in problem:
        problem, hint = "a tab cannot indent or separate here", "use spaces"
    elif problem.startswith("but found another document"):
        problem, hint = "a second document begins", "one file holds one study; remove the ---"
    elif problem.startswith("expected ',' or") and opened:
        bracket = "]" if "]" in problem else "}"
        problem = f"expected , or {bracket}, {problem.partition(', ')[2] or 'got something else'}"
        hint = f"the bracket opened in line {opened.line + 1} is not closed"
        problem = problem.replace("'<stream end>'", "the end of the file")
    elif "mapping values are not allowed" in problem:
        problem = "a second `key: value` in one line, or a wrong indentation"
        hint = "quote text that contains ': '"
    elif problem == "could not find expected ':'":
        problem, hint = "expected ':' after the key", "write key: value"
    elif problem.startswith("found undefined alias"):
        problem = f"*{problem.split()[-1].strip(chr(39))} refers to no anchor"
        hint = "text that begins with * goes in quotes"
    elif problem.startswith("expected <block end>"):
        problem = "the indentation fits nothing above"
        hint = "line it up with the other keys or items"
    elif "cannot start any token" in problem:
        hint = "put the text in quotes"
    elif "while scanning a quoted scalar" in (error.context or "") and opened:
        problem, mark, hint = "the quote is not closed", opened, "close it"
    return YamlError(problem or "not YAML", _place(mark) if mark else None, hint)


# -- nodes to values


class _Builder:
    """Makes values of nodes and notes where they stand."""

    def __init__(self) -> None:
        self.values: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.values[path] = _place(node.start_mark)
        if len(self.values) > MOST_NODES:  # aliases of aliases
            _refuse(node, f"the file has more than {MOST_NODES:,} values; is it a study file?")
        if isinstance(node, yaml.ScalarNode):
            return _scalar_of(node)
        if id(node) in self._open:
            _refuse(node, "the anchor contains itself")
        if len(path) >= MOST_DEPTH:
            _refuse(node, f"nested deeper than {MOST_DEPTH} levels")
        self._open.add(id(node))
        value: Any
        if isinstance(node, yaml.SequenceNode):
            value = [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        else:
            value = {key: self.build(item, (*path, key)) for key, item in self._items(node, path)}
        self._open.remove(id(node))
        return value

    def _items(self, node: yaml.Node, path: Path) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key_node, item in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                _refuse(key_node, "a key must be text", "put it in quotes")
            key = str(key_node.value)
            _refuse_half_characters(key_node)
            if key == "<<" and key_node.style is None:
                _refuse(key_node, "merge keys (<<) are not YAML 1.2", "repeat the keys")
            if key in seen:
                _refuse(
                    key_node,
                    f"{_shortened(key)!r} stands here again, after line {seen[key]}",
                    "keep one of them",
                )
            place = _place(key_node.start_mark)
            seen[key] = place.line
            self.keys[*path, key] = place
            yield key, item


def _scalar_of(node: yaml.ScalarNode) -> Any:
    if node.style is not None:
        text: Any = node.value
    else:
        try:
            text = scalar(node.value)
        except YamlError as error:
            _refuse(node, error.message)
    _refuse_half_characters(node)
    return text


def _refuse_half_characters(node: yaml.ScalarNode) -> None:
    for found in re.findall("[\ud800-\udfff]", node.value):
        _refuse(node, f"\\u{ord(found):04x} is half a character", "use \\U and eight digits")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
