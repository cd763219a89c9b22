"""YAML read strictly: a validated model, or one error that names file, line, value and fix for every fault."""

from __future__ import annotations

import difflib
import typing
from pathlib import PurePosixPath
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from triforce.ingest import storage

MAX_CONFIG_BYTES = 16 << 20
"""Largest file; far above any list that a person or an export writes. Assumed."""

PLAIN_WORDS = {
    "tuple_type": "not a list; write [one, two], or each item in a line of its own behind '- '",
    "too_short": "an empty list; add what belongs there, or remove the key",
    "date_from_datetime_parsing": "not a date; write it as 2024-12-31",
}
"""Messages in place of pydantic's, which speak of Python's types."""

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML's plain data with ``yes``, ``no``, ``on`` and ``true`` as words: where the model wants a truth value,
    pydantic reads them as one, and where it wants a number or a language (``no`` is Norwegian) they are none.
    """


def _construct_word(loader: _Loader, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_word)


def load_model(uri: str, model: type[Model]) -> Model:
    """Read the YAML file at ``uri`` into ``model``; `ValueError` lists faults as ``file:line: key = value: fix``."""
    name = PurePosixPath(str(uri)).name
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise ValueError(f"{uri}: no such file; write one, or give the path of the one you have") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ValueError(f"{name}: {len(data)} bytes, the limit is {MAX_CONFIG_BYTES}; split it into several files")
    return parse_model(data.decode("utf-8-sig", "replace"), model, name=name)


def parse_model(text: str, model: type[Model], *, name: str = "config") -> Model:
    """Read text into ``model`` as `load_model` does; ``name`` is what errors call the file."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        _refuse_repeated_keys(root, name)
        document = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(
            f"{name}:{line}: not YAML: {error.problem or error.context}; check indentation, quotes and colons"
        ) from error
    if not isinstance(document, dict):
        raise ValueError(
            f"{name}:1: the file holds {type(document).__name__}, not a mapping of settings; begin with 'key: value'"
        )
    try:
        return model.model_validate(document)
    except ValidationError as error:
        places = [fault["loc"] for fault in error.errors()]
        # A list whose every item is wrong is reported as empty too: the items are what a person must mend.
        whole = [
            fault
            for fault in error.errors()
            if fault["type"] != "too_short" or not any(_is_inside(place, fault["loc"]) for place in places)
        ]
        faults = sorted({_describe(fault, root, model, name) for fault in whole})
        raise ValueError("\n".join(message for _, message in faults)) from error


def _is_inside(place: tuple, outer: tuple) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _refuse_repeated_keys(node: yaml.Node | None, name: str, seen: frozenset[int] = frozenset()) -> None:
    """Raise `ValueError` for a key that is there twice: YAML would let the later one win in silence."""
    if id(node) in seen:
        line = node.start_mark.line + 1
        raise ValueError(f"{name}:{line}: what begins here holds itself, by an alias '*'; write it out")
    seen |= {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, name, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(
                    f"{name}:{line}: key {key.value!r} is there twice, first in line {lines[key.value]}; keep one"
                )
            lines[key.value] = line
            _refuse_repeated_keys(value, name, seen)


def _describe(fault: dict, root: yaml.Node, model: type[BaseModel], name: str) -> tuple[int, str]:
    line, path, siblings = _locate(root, fault["loc"])
    value = fault["input"]
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, fault["loc"])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        fix = f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; use one of: {', '.join(known)}"
        return line, f"{name}:{line}: {path} = {value!r}: {fix}"
    if fault["type"] == "missing":
        return line, f"{name}:{line}: {path}: missing; add it"
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = fault["ctx"].get("expected_tags") or ", ".join(map(repr, _kinds(model, fault["loc"])))
        found = siblings.get("kind")
        return line, f"{name}:{line}: {path}.kind = {found!r}: use one of {kinds}"
    shown = repr(value) if len(repr(value)) <= 200 else repr(value)[:200] + "..."
    words = PLAIN_WORDS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    return line, f"{name}:{line}: {path} = {shown}: {words}"


def _locate(root: yaml.Node, loc: tuple) -> tuple[int, str, dict[str, str | None]]:
    """Return line (from 1), dotted path and sibling keys of pydantic's ``loc``; a union's tag in it names no node."""
    node, line, path = root, 1, ""
    siblings: dict[str, str | None] = {}
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            siblings = {key.value: getattr(value, "value", None) for key, value in node.value}
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                if part != loc[-1]:
                    continue  # a union's tag
                return line, f"{path}.{part}".lstrip("."), siblings
            line, node, path = found[0].start_mark.line + 1, found[1], f"{path}.{part}".lstrip(".")
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node, path = node.value[part], f"{path}[{part}]"
            line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        siblings = {key.value: getattr(value, "value", None) for key, value in node.value}
    return line, path or "the file", siblings


def _known_keys(model: type[BaseModel], loc: tuple) -> list[str]:
    """Return the keys that the model at ``loc`` takes."""
    return sorted({key for candidate in _models_at(model, loc[:-1]) for key in candidate.model_fields})


def _kinds(model: type[BaseModel], loc: tuple) -> list[str]:
    """Return the values that ``kind`` takes in the union at ``loc``."""
    return [found.model_fields["kind"].default for found in _models_at(model, loc)]


def _models_at(model: type[BaseModel], loc: tuple) -> list[type[BaseModel]]:
    """Return the models that may stand at ``loc``, found by walking the models' fields."""
    current: list[type[BaseModel]] = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        found: list[type[BaseModel]] = []
        for candidate in current:
            if part in candidate.model_fields:
                found += _models_in(candidate.model_fields[part].annotation)
            elif getattr(candidate.model_fields.get("kind"), "default", None) == part:
                found.append(candidate)
        current = found or current
    return current


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in _models_in(argument)]
