"""Queries of the browse page against pandas, and its verdicts against the filters themselves."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed_corpus import AT_LIMITS, TEXTS, TITLE, configs, write_mixed

from triforce.flows.browse.catalogue import Catalogue, open_catalogue, state_of
from triforce.flows.browse.queries import KINDS, OPERATORS, Filter, Overlay, Query, matching, page, sort_keys
from triforce.flows.browse.summaries import NUM_BINS, Judge, histograms
from triforce.flows.browse.thresholds import THRESHOLDS
from triforce.ingest.clips.columns.verdicts import KEPT, REASONS, judge
from triforce.ingest.clips.filters import FilterConfig, letters_per_s
from triforce.ingest.clips.marks import mark_wrong
from triforce.ingest.clips.refilter import refilter
from triforce.ingest.clips.score_index import FLAGS, INTEGERS, NAMES, ORIGIN, SCORES, TEXT_SCORES
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA
from triforce.ingest.corpus.records import MEDIA_COLUMNS, Clip, Recording
from triforce.ingest.corpus.stats import find_recording
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def age(corpus: Corpus) -> None:
    """Date clip files back, so that what they hold is remembered."""
    for path in Path(corpus.uri).glob("clips/*/*.parquet"):
        os.utime(path, (path.stat().st_mtime - 60,) * 2)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[Corpus, Catalogue, pd.DataFrame]:
    corpus = write_mixed(tmp_path_factory.mktemp("mixed") / "corpus")
    age(corpus)
    frame = corpus.clips().to_pandas(integer_object_nulls=True)
    return corpus, open_catalogue(corpus), frame


@pytest.fixture(scope="module")
def overlay(mixed) -> Overlay:
    _, catalogue, _ = mixed
    marked = np.arange(catalogue.num_clips) % 7 == 3
    return Overlay(marked, judge(catalogue.clips, catalogue.names, FilterConfig(), marked))


def test_the_catalogue_holds_every_column_of_every_clip(mixed):
    _, catalogue, frame = mixed
    assert catalogue.num_clips == len(frame) == 360
    assert [catalogue.clip_id(row) for row in range(catalogue.num_clips)] == frame["clip_id"].tolist()
    assert [catalogue.find(clip_id) for clip_id in frame["clip_id"]] == list(range(len(frame)))
    for name in SCORES:
        np.testing.assert_array_equal(catalogue.clips[name], frame[name].astype(np.float32).to_numpy(), err_msg=name)
    for name in INTEGERS:
        np.testing.assert_array_equal(catalogue.clips[name], frame[name].to_numpy())
    for name in (*NAMES, *ORIGIN, "text", "source"):
        expected = [None if pd.isna(value) else value for value in frame[name]]
        assert [catalogue.text_of(name, row) for row in range(len(frame))] == expected, name
    held = {*SCORES, *INTEGERS, *NAMES, *ORIGIN, *FLAGS, "text", "source", "clip_id", "recording_id"}
    assert set(CLIP_SCHEMA.names) - held == {*MEDIA_COLUMNS, "words", "voice", "conditioning", "recognised"}


def test_ids_that_are_none_find_nothing(mixed):
    _, catalogue, frame = mixed
    known = frame["clip_id"][0]
    for wrong in (
        "",
        "-",
        "../../etc/passwd",
        known[:-1],
        known + "0",
        known.replace("-0", "-+"),
        f"{known}\x00",
        "-1",
    ):
        assert catalogue.find(wrong) is None, wrong


def clips_of(corpus: Corpus) -> list[Clip]:
    rows = pq.read_table(corpus.clip_files()[0]).to_pylist()
    return [Clip.from_row(row) for row in rows]


def test_scores_of_texts_are_those_of_the_filters(mixed):
    corpus, catalogue, _ = mixed
    for row, clip in enumerate(clips_of(corpus)):
        expected = letters_per_s(clip)
        assert catalogue.clips["letters_per_s"][row] == pytest.approx(
            np.nan if expected is None else expected, nan_ok=True, rel=0
        )


NUMBERS = [*AT_LIMITS, "duration_s", "start_sample"]


@st.composite
def number_filters(draw):
    name = draw(st.sampled_from(NUMBERS))
    operator = draw(st.sampled_from(OPERATORS["number"]))
    value = draw(
        st.sampled_from([v for v in AT_LIMITS.get(name, (3.0, 6.0, 20.0)) if v is not None]) | st.floats(-60, 60)
    )
    return Filter(column=name, operator=operator, value=None if operator in ("empty", "filled") else value)


@st.composite
def text_filters(draw):
    name = draw(
        st.sampled_from(
            ["text", "title", "author", "language", "speaker", "source", "licence", "recording_id", "asr_model"]
        )
    )
    operator = draw(st.sampled_from(OPERATORS[KINDS[name]]))
    words = [
        "one",
        "ONE",
        "e",
        "<b>",
        "speaker-1",
        "en",
        "tiny.en",
        "alpha",
        "CC0",
        TITLE,
        TEXTS[0],
        "城市",
        "İ",
        ".",
        "\\",
        "ann",
    ]
    return Filter(
        column=name, operator=operator, value=None if operator in ("empty", "filled") else draw(st.sampled_from(words))
    )


def by_pandas(frame: pd.DataFrame, one: Filter) -> pd.Series:
    column, value = frame[one.column], one.value
    if one.operator in ("empty", "filled"):
        return column.isna() == (one.operator == "empty")
    if one.column in NUMBERS:
        numbers = column.astype(float)
        if one.operator == "is":
            return numbers == (float(np.float32(value)) if one.column in SCORES else value)
        return numbers >= value if one.operator == "at_least" else numbers <= value
    if one.operator in ("is", "is_not"):
        return (column == value) == (one.operator == "is")
    has = column.map(lambda text: isinstance(text, str) and value.lower() in text.lower()).astype(bool)
    return has if one.operator == "contains" else ~has


@given(filters=st.lists(number_filters() | text_filters(), min_size=1, max_size=3))
@QUICK
def test_filters_agree_with_pandas(mixed, overlay, filters):
    _, catalogue, frame = mixed
    found = matching(catalogue, Query(filters=tuple(filters)), overlay)
    expected = np.logical_and.reduce([by_pandas(frame, one).to_numpy() for one in filters])
    np.testing.assert_array_equal(found, expected)


@given(
    column=st.sampled_from(
        [*NUMBERS, "title", "language", "source", "verdict", "marked", "author", "letters_per_s", None]
    ),
    descending=st.booleans(),
    limit=st.integers(1, 50),
)
@QUICK
def test_pages_in_a_row_are_the_whole_in_order(mixed, overlay, column, descending, limit):
    _, catalogue, _ = mixed
    query = Query(
        sort=column,
        descending=descending,
        limit=limit,
        filters=(Filter(column="source", operator="is_not", value="beta"),),
    )
    found, keys, rows = matching(catalogue, query, overlay), sort_keys(catalogue, column, overlay), []
    for _ in range(400):
        one = page(found, keys, query)
        rows += one.rows
        assert len(one.rows) <= limit
        if one.next is None:
            break
        query = query.model_copy(update={"after": one.next})
    whole = pd.DataFrame({"row": np.flatnonzero(found)})
    if keys is not None:
        whole["key"] = np.asarray(keys, np.float64)[whole["row"]]
        whole = whole.sort_values(["key", "row"], ascending=[not descending, True], na_position="last")
    assert rows == whole["row"].tolist()


def test_search_finds_texts_titles_and_ids_regardless_of_case(mixed, overlay):
    _, catalogue, frame = mixed

    def rows(words: str) -> list[int]:
        return np.flatnonzero(matching(catalogue, Query(search=words), overlay)).tolist()

    for words in ("one two", "EPISODE 3", "ann", "城市交通", "another"):
        has = frame[["text", "title", "author"]].map(
            lambda text, words=words: isinstance(text, str) and words.lower() in text.lower()
        )
        assert rows(words) == np.flatnonzero(has.any(axis=1)).tolist(), words
        assert rows(words)
    assert rows(frame["clip_id"][70]) == [70]
    assert (
        rows(frame["recording_id"][70]) == np.flatnonzero(frame["recording_id"] == frame["recording_id"][70]).tolist()
    )
    assert rows("nowhere") == []


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (Filter(column="audio", operator="is", value="x"), "column 'audio': there is none"),
        (Filter(column="snr_db", operator="contains", value="x"), "snr_db contains: use one of: at_least"),
        (Filter(column="snr_db", operator="at_least", value="x"), "give a number"),
        (Filter(column="text", operator="contains"), "give a text"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(mixed, overlay, filters, words):
    with pytest.raises(ValueError, match=words):
        matching(mixed[1], Query(filters=(filters,)), overlay)
    with pytest.raises(ValueError, match="use a score"):
        sort_keys(mixed[1], "text", overlay)


@given(config=configs())
@settings(QUICK, max_examples=40)
def test_verdicts_are_those_of_refilter(mixed, config):
    corpus, catalogue, frame = mixed
    changes = refilter(corpus, config, dry_run=True).to_pylist()
    expected = {row["clip_id"]: row["after"] for row in changes}
    reasons = judge(catalogue.clips, catalogue.names, config, np.zeros(catalogue.num_clips, bool))
    found = [reason and str(reason) for reason in (REASONS[number] for number in reasons)]
    assert found == [expected.get(clip_id) for clip_id in frame["clip_id"]]


def test_every_reason_is_met(mixed):
    """Else the comparison with refilter would not hold for it."""
    _, catalogue, _ = mixed
    marked = np.arange(catalogue.num_clips) == 0
    strict = FilterConfig(languages=("en",), min_dnsmos=3.0, min_bandwidth_hz=9000, max_chars_per_s=20)
    strict = strict.model_copy(update={"min_agreement": 0.6})
    seen = {
        int(one)
        for config in (FilterConfig(), strict)
        for one in judge(catalogue.clips, catalogue.names, config, marked)
    }
    assert {REASONS[number] for number in seen} == set(REASONS)


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=lambda one: one.field)
def test_border_clips_are_those_that_the_threshold_alone_decides(mixed, threshold):
    _, catalogue, _ = mixed
    asked = Judge(catalogue, np.zeros(catalogue.num_clips, bool))
    lenient = {"max_s": 25.0, "min_dnsmos": 1.0, "min_language_probability": 0.0}
    tight = {
        "min_dnsmos": 3.1,
        "min_bandwidth_hz": 9000.0,
        "min_unique_word_share": 0.9,
        "min_language_probability": 0.9,
    }
    config = FilterConfig(
        **{name: value for name, value in (lenient | tight).items() if name in (threshold.field, "max_s")}
    )
    border = asked.border(config, threshold, limit=1000)
    scores, verdicts = catalogue.clips[threshold.score], asked.verdicts(config)
    limit = getattr(config, threshold.field)
    assert all(verdicts[row] != KEPT for row in border.outside)
    assert all(verdicts[row] == KEPT for row in border.inside)
    distances = [[abs(float(scores[row]) - limit) for row in rows] for rows in (border.inside, border.outside)]
    assert all(one == sorted(one) for one in distances)
    freed = asked.verdicts(config.model_copy(update={threshold.field: 1e9 * (1, -1)[threshold.keeps_above]})) == KEPT
    strict = asked.verdicts(config.model_copy(update={threshold.field: 1e9 * (-1, 1)[threshold.keeps_above]})) == KEPT
    assert sorted(border.outside) == np.flatnonzero(freed & (verdicts != KEPT)).tolist()
    assert sorted(border.inside) == np.flatnonzero((verdicts == KEPT) & ~strict).tolist()
    assert border.num_outside == len(border.outside)
    assert bool(border.inside) == (threshold.field != "max_no_speech_prob")  # which drops with another limit alone
    few = asked.border(config, threshold, limit=3)
    assert (few.inside, few.outside, few.num_outside) == (border.inside[:3], border.outside[:3], border.num_outside)


def test_histograms_count_every_clip_once_and_are_made_once(mixed):
    _, catalogue, frame = mixed
    found = histograms(catalogue)
    for one in found:
        counted = np.array(one["counts"])
        assert counted.shape == (3, NUM_BINS)
        assert counted.sum() + one["missing"] == len(frame)
    [snr] = [one for one in found if one["score"] == "snr_db"]
    for number, source in enumerate(catalogue.sources):
        values = frame["snr_db"][frame["source"] == source].dropna().astype(float)
        inside = np.clip(values, snr["edges"][0], snr["edges"][-1])
        assert snr["counts"][number] == np.histogram(inside, snr["edges"])[0].tolist()
    [kept] = catalogue.folder.glob("histograms-*.json")
    before = kept.stat().st_mtime_ns
    assert histograms(catalogue) == found
    assert kept.stat().st_mtime_ns == before


def test_a_summary_adds_up(mixed):
    _, catalogue, frame = mixed
    summary = Judge(catalogue, np.zeros(catalogue.num_clips, bool)).summary(FilterConfig())
    assert (
        summary["num_kept"] + sum(one["num_clips"] for one in summary["by_reason"])
        == summary["num_clips"]
        == len(frame)
    )
    assert summary["hours"] == pytest.approx(frame["duration_s"].astype(float).sum() / 3600)
    assert summary["kept_h"] == pytest.approx(sum(one["kept_h"] for one in summary["by_source"]))


def test_the_catalogue_follows_the_corpus_and_a_takedown_leaves_nothing_of_it(tmp_path):
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=3)
    age(corpus)
    first = open_catalogue(corpus)
    built = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.is_file()}
    assert open_catalogue(corpus).folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in built} == built, "it was made twice"
    row = next(row for row in range(first.num_clips) if first.text_of("title", row) == TITLE)
    gone = find_recording(corpus, first.clip_id(row))
    mark_wrong(corpus, gone.source, first.clip_id(row))
    remove(corpus, [gone])
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"taken" not in everything, "the title is still on the disk"
    remembered = [
        name for part in tmp_path.rglob("score-index-*/*") for name in pq.read_table(part)["name"].to_pylist()
    ]
    assert gone.recording_id not in remembered
    assert len(remembered) == 5
    second = open_catalogue(corpus)
    assert (second.num_clips, second.find(first.clip_id(row))) == (first.num_clips - 3, None)
    assert second.state == state_of(corpus) != first.state
    assert [path.name for path in second.folder.parent.iterdir()] == [second.state]


def test_a_corpus_that_holds_no_clips_or_is_not_local(tmp_path):
    corpus = Corpus(f"memory://{tmp_path.name}/corpus")
    recording = Recording("b" * 16, "talks", "files", "b", "https://example.org/b")
    corpus.write_recording(recording)
    corpus.write_clips(recording, [])
    empty = open_catalogue(corpus)
    overlay = Overlay(np.zeros(0, bool), np.zeros(0, np.uint8))
    assert empty.num_clips == 0
    for column in ("title", "source", "text", "snr_db", "clip_id"):
        wanted = Filter(column=column, operator="filled")
        assert matching(empty, Query(filters=(wanted,), search="x"), overlay).tolist() == []
    assert page(np.zeros(0, bool), sort_keys(empty, "title", overlay), Query()).rows == []
    assert Judge(empty, overlay.marked).summary(FilterConfig())["hours"] == 0
    assert len(histograms(empty)) == len((*SCORES, *TEXT_SCORES))
    clip = Clip.cut(replace(recording, recording_id="c" * 16), 5, 10, 24_000, text="hello")
    corpus.write_recording(replace(recording, recording_id="c" * 16, source_id="c"))
    corpus.write_clips(replace(recording, recording_id="c" * 16), [clip])
    assert open_catalogue(corpus).text_of("text", 0) == "hello"
