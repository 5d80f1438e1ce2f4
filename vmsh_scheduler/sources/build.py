"""YAML events -> plain data, with a stack of its own: depth, size and aliases are counted before anything is built."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import yaml

from vmsh_scheduler.sources.marks import START, Mark, Path, Spot
from vmsh_scheduler.sources.scalars import Scalar, Trap, read_plain

MAX_EVENTS = 2_000_000
MAX_NODES = 1_000_000
MAX_TEXT = 16_000_000
"""Characters of all scalars, aliases multiplied out."""
MAX_DEPTH = 32
MAX_PROBLEMS = 100

_TAG = "tag:yaml.org,2002:"
_FITS: dict[str, tuple[type, ...]] = {
    _TAG + "int": (int,),
    _TAG + "float": (float, int),
    _TAG + "bool": (bool,),
    _TAG + "null": (type(None),),
}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Found(NamedTuple):
    """A problem in a file, before the file's name is put in front of it."""

    mark: Mark
    path: Path
    message: str


class Refused(Exception):
    """Reading cannot go on."""

    def __init__(self, found: Found) -> None:
        super().__init__(found.message)
        self.found = found


@dataclass(slots=True)
class _Frame:
    """An open mapping or list."""

    data: Any
    spots: Any
    mark: Mark
    anchor: str | None
    nodes_before: int
    text_before: int
    key: str | None = None
    key_mark: Mark = START
    height: int = 1


class _Anchor(NamedTuple):
    value: Any
    inside: Any
    nodes: int
    text: int
    height: int


@dataclass(slots=True)
class Builder:
    """Turns events into data with a stack of its own."""

    data: dict[str, Any] = field(default_factory=dict)
    spot: Spot = field(default_factory=lambda: Spot(START, START, {}))
    problems: list[Found] = field(default_factory=list)
    _stack: list[_Frame] = field(default_factory=list)
    _anchors: dict[str, _Anchor] = field(default_factory=dict)
    _nodes: int = 0
    _text: int = 0
    _documents: int = 0
    _filled: bool = False

    def run(self, events: Iterable[yaml.Event], *, empty_ok: bool) -> None:
        steps: dict[type, Callable[[Any], None]] = {
            yaml.DocumentStartEvent: self._document,
            yaml.ScalarEvent: self._scalar,
            yaml.AliasEvent: self._alias,
            yaml.MappingStartEvent: self._open,
            yaml.SequenceStartEvent: self._open,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
        }
        for count, event in enumerate(events):
            if count >= MAX_EVENTS:
                self._refuse(_mark(event), f"too large: over {MAX_EVENTS:,} YAML events")
            if step := steps.get(type(event)):
                step(event)
        if not self._filled and not empty_ok:
            self._refuse(START, "the file is empty; a mapping (key: value) is needed")

    def _document(self, event: yaml.Event) -> None:
        self._documents += 1
        if self._documents > 1:
            self._refuse(_mark(event), "more than one document (---); one file holds one")

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        if not self._stack and not event.value and not event.style:
            return  # nothing between `---` and the end
        frame = self._parent(event)
        self._count(1, len(event.value), event)
        value = self._value_of(event)
        if isinstance(frame.data, dict) and frame.key is None:
            self._take_key(frame, event, value)
            return
        if event.anchor:
            self._anchors[event.anchor] = _Anchor(value, None, 1, len(event.value), 0)
        self._put(frame, value, _mark(event), None)

    def _value_of(self, event: yaml.ScalarEvent) -> Scalar:
        text, tag = event.value, event.tag
        if not text.isascii() and _SURROGATE.search(text):
            self._note(event, "half of a surrogate pair is not a character")
        if tag is None and not event.style:
            return self._plain(event)
        if tag in (None, "!", _TAG + "str"):
            return str(text)
        return self._tagged(event)

    def _plain(self, event: yaml.ScalarEvent) -> Scalar:
        value = read_plain(event.value)
        if not isinstance(value, Trap):
            return value
        if event.value == "<<" and self._at_key():
            self._note(event, "merge keys (<<) are not supported; write the keys out or alias a whole value")
        else:
            self._note(event, value.why)
        return str(event.value)

    def _tagged(self, event: yaml.ScalarEvent) -> Scalar:
        """`!!int`, `!!float`, `!!bool` and `!!null` may only say what is so anyway."""
        fits = _FITS.get(str(event.tag))
        if fits is None:
            self._note(event, "this tag is not allowed; quote the value if it is meant to begin with `!`")
            return None
        value = read_plain(event.value)
        if isinstance(value, Trap) or type(value) not in fits:
            self._note(event, "the value does not fit its tag")
            return None
        return float(value) if float in fits and isinstance(value, int) else value

    def _take_key(self, frame: _Frame, event: yaml.ScalarEvent, value: Scalar) -> None:
        key, mark = str(event.value), _mark(event)
        if not isinstance(value, str):
            self._note(event, f"a key must be text; quote it{' (it is empty)' if not key else ''}")
        elif event.anchor:
            self._note(event, "an anchor (&) on a key is not supported")
        if key in frame.data:
            first = frame.spots[key].key.line
            self._add(mark, (*self._path(), key), f"duplicate key on lines {first} and {mark.line}")
        frame.key, frame.key_mark = key, mark

    def _alias(self, event: yaml.AliasEvent) -> None:
        frame = self._parent(event)
        if self._at_key():
            self._refuse(_mark(event), "an alias (*) cannot be a key; write the key out")
        anchor = self._anchors.get(str(event.anchor))
        if anchor is None:
            if any(open_.anchor == event.anchor for open_ in self._stack):
                self._refuse(_mark(event), "recursive alias: it refers to a value it is part of")
            self._refuse(_mark(event), "unknown alias; quote the value if it is meant to begin with `*`")
        if len(self._stack) + anchor.height > MAX_DEPTH:
            self._refuse(_mark(event), f"nested too deep: over {MAX_DEPTH} levels with aliases followed")
        self._count(anchor.nodes, anchor.text, event)
        frame.height = max(frame.height, anchor.height + 1)
        self._put(frame, anchor.value, _mark(event), anchor.inside)

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        if not self._stack and not is_map:
            self._refuse(_mark(event), "a list at the top level; a mapping (key: value) is needed")
        if self._at_key():
            self._refuse(_mark(event), "a key must be text, not a mapping or list; quote `{...}` and `[...]`")
        if len(self._stack) >= MAX_DEPTH:
            self._refuse(_mark(event), f"nested too deep: over {MAX_DEPTH} levels")
        if event.tag not in (None, "!", _TAG + ("map" if is_map else "seq")):
            self._note(event, "this tag is not allowed")
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        frame = _Frame({} if is_map else [], {} if is_map else [], _mark(event), event.anchor, self._nodes, self._text)
        self._count(1, 0, event)
        self._stack.append(frame)

    def _close(self, event: yaml.Event) -> None:
        frame = self._stack.pop()
        if frame.anchor:
            nodes, text = self._nodes - frame.nodes_before, self._text - frame.text_before
            self._anchors[frame.anchor] = _Anchor(frame.data, frame.spots, nodes, text, frame.height)
        if not self._stack:
            self.data, self.spot, self._filled = frame.data, Spot(frame.mark, frame.mark, frame.spots), True
            return
        parent = self._stack[-1]
        parent.height = max(parent.height, frame.height + 1)
        self._put(parent, frame.data, frame.mark, frame.spots)

    def _put(self, frame: _Frame, value: Any, mark: Mark, inside: Any) -> None:
        if isinstance(frame.data, list):
            frame.data.append(value)
            frame.spots.append(Spot(mark, mark, inside))
        else:
            frame.data[frame.key] = value
            frame.spots[frame.key] = Spot(frame.key_mark, mark, inside)
            frame.key = None

    def _parent(self, event: yaml.Event) -> _Frame:
        if not self._stack:
            self._refuse(_mark(event), "a single value at the top level; a mapping (key: value) is needed")
        return self._stack[-1]

    def _at_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].data, dict) and self._stack[-1].key is None

    def _path(self) -> Path:
        path: list[str | int] = []
        for frame in self._stack:
            if isinstance(frame.data, list):
                path.append(len(frame.data))
            elif frame.key is not None:
                path.append(frame.key)
        return tuple(path)

    def _count(self, nodes: int, text: int, event: yaml.Event) -> None:
        self._nodes += nodes
        self._text += text
        if self._nodes > MAX_NODES or self._text > MAX_TEXT:
            self._refuse(
                _mark(event), f"too large: aliases followed, over {MAX_NODES:,} values or {MAX_TEXT:,} characters"
            )

    def _note(self, event: yaml.Event, message: str) -> None:
        self._add(_mark(event), self._path(), message)

    def _add(self, mark: Mark, path: Path, message: str) -> None:
        self.problems.append(Found(mark, path, message))
        if len(self.problems) >= MAX_PROBLEMS:
            self._refuse(mark, f"over {MAX_PROBLEMS} problems; the rest of the file was not read")

    def _refuse(self, mark: Mark, message: str) -> NoReturn:
        raise Refused(Found(mark, self._path(), message))


def _mark(event: yaml.Event) -> Mark:
    start = event.start_mark
    return Mark(start.line + 1, start.column + 1) if start else START
