"""Queries over a `Catalogue`: filters, search, order, and pages that begin behind the last row of the one before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.browse.catalogue import ORIGIN_TEXTS, Catalogue
from triforce.ingest.clips.columns.verdicts import REASONS
from triforce.ingest.clips.score_index import FLAGS, INTEGERS, NAMES, SCORES, TEXT_SCORES

TEXT_BLOCK = 1 << 16
"""Texts that are searched at a time; a block without a clip that may match is left out. Assumed."""
NUMERIC = (*SCORES, *TEXT_SCORES, *INTEGERS)
CHOICES = ("source", *NAMES)
KINDS = (
    {"clip_id": "text", "marked": "flag", "verdict": "choice", "text": "text"}
    | dict.fromkeys(NUMERIC, "number")
    | dict.fromkeys(CHOICES, "choice")
    | dict.fromkeys(ORIGIN_TEXTS, "text")
    | dict.fromkeys(FLAGS, "flag")
)
"""Every column that may be filtered by, and what its values are."""
OPERATORS = {
    "number": ("at_least", "at_most", "is", "empty", "filled"),
    "choice": ("is", "is_not", "contains", "empty", "filled"),
    "text": ("contains", "lacks", "is", "empty", "filled"),
    "flag": ("yes", "no", "empty"),
}


class Filter(BaseModel):
    """A condition on one column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str = Field(max_length=40, description="A column of `KINDS`.")
    operator: str = Field(max_length=20, description="One of `OPERATORS` for the column's kind.")
    value: float | str | None = Field(
        None, description="A number, or a text; `contains` and `lacks` do not tell capitals apart."
    )


class Place(BaseModel):
    """Behind which row a page begins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: float | None = Field(description="The row's value of the column that is sorted by; null: it has none.")
    row: int = Field(ge=0, description="The row.")


class Query(BaseModel):
    """Which clips, and in which order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: tuple[Filter, ...] = Field((), max_length=32, description="All of them hold.")
    search: str = Field("", max_length=200, description="Part of the text, the title, or the beginning of an id.")
    sort: str | None = Field(None, max_length=40, description="A column; null: by source, recording and time.")
    descending: bool = Field(False, description="The largest first; clips without a value come last all the same.")
    after: Place | None = Field(None, description="Behind which row the page begins.")
    limit: int = Field(50, ge=1, le=500, description="Rows of a page.")


class Page(NamedTuple):
    """Rows of a page."""

    rows: list[int]
    next: Place | None
    """What the next page comes after; None: there is none."""


class Overlay(NamedTuple):
    """What changes while a catalogue stays: bool and uint8 ``(N,)``."""

    marked: np.ndarray
    verdicts: np.ndarray


def matching(catalogue: Catalogue, query: Query, overlay: Overlay) -> np.ndarray:
    """Return which clips a query finds, bool ``(N,)``.

    Raises ValueError for a column, an operator or a value that does not exist.
    """
    found = np.ones(catalogue.num_clips, bool)
    costly = []
    for one in query.filters:
        kind = KINDS.get(one.column)
        if kind is None:
            raise ValueError(f"column {one.column!r}: there is none; use one of: {', '.join(sorted(KINDS))}")
        if one.operator not in OPERATORS[kind]:
            raise ValueError(f"{one.column} {one.operator}: use one of: {', '.join(OPERATORS[kind])}")
        if one.column == "text" and one.operator not in ("empty", "filled"):
            costly.append(one)
        else:
            found &= _holds(catalogue, one, kind, overlay)
    for one in costly:  # only of what is left
        found = _in_texts(catalogue, found, one)
    return _searched(catalogue, found, query.search.strip()) if query.search.strip() else found


def _holds(catalogue: Catalogue, one: Filter, kind: str, overlay: Overlay) -> np.ndarray:
    if one.column == "clip_id":
        return _ids(catalogue, one)
    if kind == "number":
        return _numbers(catalogue.clips[one.column], one)
    if kind == "flag":
        values = overlay.marked if one.column == "marked" else catalogue.clips[one.column]
        return values == {"yes": 1, "no": 0, "empty": -1}[one.operator]
    if one.column == "text":
        return (catalogue.clips["text_is_null"] == 1) == (one.operator == "empty")
    if one.column == "verdict":
        names = pa.array([reason and str(reason) for reason in REASONS])
        return _texts(names, names.is_null().to_numpy(False), one)[overlay.verdicts]
    if one.column in CHOICES:
        names = pa.array(catalogue.sources if one.column == "source" else catalogue.names[one.column], pa.string())
        holds = _texts(names, names.is_null().to_numpy(False), one)
        return holds[catalogue.clips[one.column]] if len(holds) else np.zeros(catalogue.num_clips, bool)
    holds = _texts(catalogue.origin_texts[one.column], catalogue.origin_nulls[one.column], one)
    return holds[catalogue.clips["origin"]] if len(holds) else np.zeros(catalogue.num_clips, bool)


def _numbers(values: np.ndarray, one: Filter) -> np.ndarray:
    if one.operator in ("empty", "filled"):
        return np.isnan(values) == (one.operator == "empty")
    if not isinstance(one.value, float):
        raise ValueError(f"{one.column} {one.operator} {one.value!r}: give a number")
    limit = np.float64(one.value)
    if one.operator == "is":
        return values.astype(np.float64) == limit if values.dtype != np.float32 else values == np.float32(limit)
    wide = values.astype(np.float64)
    return wide >= limit if one.operator == "at_least" else wide <= limit


def _texts(values: pa.Array, nulls: np.ndarray, one: Filter) -> np.ndarray:
    if one.operator in ("empty", "filled"):
        return nulls == (one.operator == "empty")
    wanted = _wanted(one)
    if one.operator in ("is", "is_not"):
        found = pc.equal(values, wanted)
    else:
        found = pc.match_substring(values, wanted, ignore_case=True)
    holds = found.fill_null(False).to_numpy(zero_copy_only=False) & ~nulls
    return ~holds if one.operator in ("is_not", "lacks") else holds


def _wanted(one: Filter) -> str:
    if one.value is None:
        raise ValueError(f"{one.column} {one.operator}: give a text")
    return one.value if isinstance(one.value, str) else f"{one.value:g}"


def _ids(catalogue: Catalogue, one: Filter) -> np.ndarray:
    """Ids are of a recording and a sample: one that is given whole is looked for, a part in recordings' alone."""
    found = np.zeros(catalogue.num_clips, bool)
    if one.operator in ("empty", "filled"):
        return ~found if one.operator == "filled" else found
    row = catalogue.find(_wanted(one))
    if row is not None:
        found[row] = True
    elif one.operator != "is":
        ids = pc.match_substring(catalogue.origin_texts["recording_id"], _wanted(one).partition("-")[0])
        holds = ids.to_numpy(zero_copy_only=False)
        found = holds[catalogue.clips["origin"]] if len(holds) else found
    return ~found if one.operator == "lacks" else found


def _in_texts(catalogue: Catalogue, found: np.ndarray, one: Filter) -> np.ndarray:
    """Narrow ``found`` down to the clips whose text fits, block by block."""
    result = np.zeros_like(found)
    for first in range(0, len(found), TEXT_BLOCK):
        block = slice(first, first + TEXT_BLOCK)
        if found[block].any():
            nulls = catalogue.clips["text_is_null"][block] == 1
            result[block] = found[block] & _texts(catalogue.text.slice(first, TEXT_BLOCK), nulls, one)
    return result


def _searched(catalogue: Catalogue, found: np.ndarray, words: str) -> np.ndarray:
    title = _holds_title(catalogue, words)
    in_text = _in_texts(catalogue, found & ~title, Filter(column="text", operator="contains", value=words))
    row = catalogue.find(words)
    result = (found & title) | in_text
    if row is not None:
        result[row] = found[row]
    return result


def _holds_title(catalogue: Catalogue, words: str) -> np.ndarray:
    holds = np.zeros(len(catalogue.origins["first"]), bool)
    for name in ("title", "author"):
        holds |= _texts(
            catalogue.origin_texts[name],
            catalogue.origin_nulls[name],
            Filter(column=name, operator="contains", value=words),
        )
    ids = pc.starts_with(catalogue.origin_texts["recording_id"], words)
    holds |= ids.to_numpy(zero_copy_only=False)
    return holds[catalogue.clips["origin"]] if len(holds) else np.zeros(catalogue.num_clips, bool)


def sort_keys(catalogue: Catalogue, column: str | None, overlay: Overlay) -> np.ndarray | None:
    """Return what clips are ordered by, ``(N,)``, NaN last; None: as they lie. Raises ValueError for a column that
    cannot be sorted by."""
    kind = KINDS.get(column or "")
    if column in (None, "clip_id"):
        return None
    if kind == "number":
        return catalogue.clips[column]
    if kind == "flag":
        return (overlay.marked if column == "marked" else catalogue.clips[column]).astype(np.float32)
    if column == "verdict":
        return _ranks(pa.array([reason and str(reason) for reason in REASONS]))[overlay.verdicts]
    if column in CHOICES:
        names = pa.array(catalogue.sources if column == "source" else catalogue.names[column], pa.string())
        return _ranks(names)[catalogue.clips[column]]
    if column in ORIGIN_TEXTS:
        ranks = _ranks(catalogue.origin_texts[column])
        ranks[catalogue.origin_nulls[column]] = np.nan
        return ranks[catalogue.clips["origin"]]
    raise ValueError(f"sort {column!r}: use a score or another column than the text")


def _ranks(texts: pa.Array) -> np.ndarray:
    """The places of texts in their order, equal ones the same; NaN of null."""
    ranks = pc.rank(texts, sort_keys="ascending", tiebreaker="dense")
    places = ranks.to_numpy(zero_copy_only=False).astype(np.float64)
    places[texts.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return places


def page(found: np.ndarray, keys: np.ndarray | None, query: Query) -> Page:
    """Return the rows that come next, of those ``found``, by ``keys`` and then by row."""
    rows = np.flatnonzero(found)
    if keys is None:
        first = 0 if query.after is None else int(np.searchsorted(rows, query.after.row, side="right"))
        chosen = rows[first : first + query.limit]
        last = first + query.limit >= len(rows)
        return Page(chosen.tolist(), None if last or not len(chosen) else Place(key=None, row=int(chosen[-1])))
    values = keys[rows].astype(np.float64)
    values = np.where(np.isnan(values), np.inf, -values if query.descending else values)
    if query.after is not None:
        key = query.after.key
        limit = np.inf if key is None else (-key if query.descending else key)
        behind = (values > limit) | ((values == limit) & (rows > query.after.row))
        rows, values = rows[behind], values[behind]
    more = len(rows) > query.limit
    if more:
        largest = np.partition(values, query.limit - 1)[query.limit - 1]
        below = np.flatnonzero(values < largest)
        equal = np.flatnonzero(values == largest)[: query.limit - len(below)]  # in the order of rows
        taken = np.concatenate([below, equal])
        rows, values = rows[taken], values[taken]
    order = np.lexsort((rows, values))
    rows, values = rows[order], values[order]
    if not more:
        return Page(rows.tolist(), None)
    key = None if np.isinf(values[-1]) else float(-values[-1] if query.descending else values[-1])
    return Page(rows.tolist(), Place(key=key, row=int(rows[-1])))
