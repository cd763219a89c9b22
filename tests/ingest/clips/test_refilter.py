"""Judging whole columns of clip files: the same as clip by clip, in whatever layout they are, and what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed_corpus import TEXTS, configs, write_mixed

from triforce.ingest.asr.writing import plain_words, repeatable_units, spaced_words
from triforce.ingest.clips.columns.text_scores import text_scores
from triforce.ingest.clips.filters import MIN_UNITS, FilterConfig, drop_reason, is_phantom_phrase, letters_per_s
from triforce.ingest.clips.marks import mark_wrong
from triforce.ingest.clips.refilter import decide_again, refilter
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA, ZSTD_COLUMNS
from triforce.ingest.corpus.records import Clip
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.store import Corpus

MARKED = 11
"""Row of the first file whose clip is marked."""
SHARES = (0.0, 0.4, 1.0)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Corpus:
    corpus = write_mixed(tmp_path_factory.mktemp("mixed") / "corpus")
    mark_wrong(corpus, "alpha", clips_of(corpus, "alpha")[MARKED].clip_id)
    return corpus


def clips_of(corpus: Corpus, source: str) -> list[Clip]:
    return [Clip.from_row(row) for uri in corpus.clip_files(source) for row in pq.read_table(uri).to_pylist()]


def reasons_one_by_one(corpus: Corpus, config: FilterConfig) -> dict[str, str | None]:
    """By its id each clip's reason, found from records and in plain Python."""
    found: dict[str, str | None] = {}
    for source in corpus.sources():
        clips = clips_of(corpus, source)
        here: dict[str, str | None] = {clip.clip_id: drop_reason(clip, config) for clip in clips}
        if source == "alpha":
            here[clips[MARKED].clip_id] = "marked_wrong"
        rates = {clip.clip_id: rate for clip in clips if (rate := letters_per_s(clip)) is not None}
        usual = [rates[clip_id] for clip_id, reason in here.items() if reason is None and clip_id in rates]
        if config.max_rate_iqr is not None and len(usual) >= 20:
            low, high = np.percentile(np.array(usual, np.float32).astype(float), [25, 75])
            spread = config.max_rate_iqr * (high - low)
            for clip_id, rate in rates.items():
                if here[clip_id] is None and not low - spread <= rate <= high + spread:
                    here[clip_id] = "speaking_rate"
        found |= here
    return found


@given(config=configs())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whole_columns_are_judged_as_clip_by_clip(mixed, config):
    changes = {row["clip_id"]: row["after"] for row in refilter(mixed, config, dry_run=True).to_pylist()}
    expected = reasons_one_by_one(mixed, config)
    assert changes == {clip_id: reason for clip_id, reason in expected.items() if reason is not None}


@pytest.mark.parametrize("max_rate_iqr", [None, 0.5])
def test_what_is_written_is_what_was_said_and_nothing_is_left_to_change(tmp_path, max_rate_iqr):
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=30)
    config = FilterConfig(max_rate_iqr=max_rate_iqr)
    mark_wrong(corpus, "alpha", clips_of(corpus, "alpha")[MARKED].clip_id)
    said = refilter(corpus, config, dry_run=True)
    assert refilter(corpus, config).equals(said)
    assert len(said) > 50
    assert {clip.clip_id: clip.drop_reason for source in corpus.sources() for clip in clips_of(corpus, source)} == (
        reasons_one_by_one(corpus, config)
    )
    assert len(refilter(corpus, config)) == 0


def test_a_file_that_is_written_meanwhile_is_judged_by_what_it_holds_then(tmp_path):
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=30)
    config = FilterConfig(max_rate_iqr=1.5)
    changes = decide_again(corpus, config)
    first = next(changes)
    [last] = corpus.clip_files("alpha")[1:]
    num_clips = pq.read_metadata(last).num_rows
    replace_columns(last, {"cut_blind": [True] * num_clips, "text": ["One two"] * num_clips})
    said = {row["clip_id"]: row["after"] for table in changes for row in table.to_pylist()}
    assert first["recording_id"][0].as_py() not in last
    clips = clips_of(corpus, "alpha")[num_clips:]
    assert {clip.drop_reason for clip in clips} >= {"cut_word"}
    assert [clip.drop_reason for clip in clips] == [drop_reason(clip, config) for clip in clips]
    assert [said.get(clip.clip_id) for clip in clips] == [clip.drop_reason for clip in clips]


def test_columns_of_few_bytes_are_not_compressed_and_files_that_are_give_the_same(mixed, tmp_path):
    [uri, *_] = mixed.clip_files()
    group = pq.read_metadata(uri).row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    compressed = {chunk.path_in_schema.split(".")[0] for chunk in chunks if chunk.compression == "ZSTD"}
    assert compressed == set(ZSTD_COLUMNS)
    assert {chunk.compression for chunk in chunks} == {"ZSTD", "UNCOMPRESSED"}
    old = write_mixed(tmp_path / "corpus")
    for path in map(Path, old.clip_files()):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table, path, compression="zstd", row_group_size=32)
    config = FilterConfig(max_rate_iqr=1.0)
    unmarked = write_mixed(tmp_path / "unmarked")
    assert refilter(old, config, dry_run=True).equals(refilter(unmarked, config, dry_run=True))


def test_columns_that_an_older_version_did_not_write_drop_nothing(tmp_path):
    corpus = write_mixed(tmp_path / "corpus", clips_per_recording=20)
    [uri, *_] = corpus.clip_files()
    table = pq.read_table(uri, partitioning=None)
    kept = ["clip_id", "recording_id", "source", "start_sample", "end_sample", "sample_rate_hz", "duration_s"]
    pq.write_table(table.select([*kept, "drop_reason"]), uri)
    loose = FilterConfig(min_s=0, max_s=30)
    changed = refilter(corpus, loose, dry_run=True)["recording_id"].unique().to_pylist()
    assert changed
    assert table["recording_id"][0].as_py() not in changed
    assert CLIP_SCHEMA.names[: len(kept)] == kept


WORDS = ("a", "go", "Go", "on'", "x_1", "12", "Thanks", "for", "watching", "-", "!")
WORDY = st.lists(st.sampled_from(WORDS)).map(" ".join)
ANY_TEXT = st.one_of(st.none(), st.sampled_from(TEXTS), WORDY, st.text(st.characters(exclude_categories=["Cs"])))


@given(texts=st.lists(ANY_TEXT, max_size=12), limit=st.sampled_from(SHARES), skipped=st.integers(0, 2))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_scores_of_texts_are_those_of_each_text(texts, limit, skipped):
    array = pa.array([*["left out"] * skipped, *texts], pa.string()).slice(skipped)
    rates = np.linspace(3, 20, len(texts)).astype(np.float32)
    found = text_scores(array, rates, exact_share_up_to=limit)
    for row, text in enumerate(texts):
        units = repeatable_units(text)
        share = len(set(units)) / len(units) if len(units) >= MIN_UNITS else np.nan
        if share <= limit:
            assert found["unique_word_share"][row] == share
        else:
            assert not found["unique_word_share"][row] <= limit
        np.testing.assert_equal(found["longest_word"][row], float(max(map(len, spaced_words(text)), default=np.nan)))
        assert found["no_words"][row] == (text is not None and not plain_words(text))
        assert found["is_phantom"][row] == is_phantom_phrase(text)
        assert found["text_is_null"][row] == (text is None)
        clip = Clip(
            clip_id="a-0", recording_id="a", source="a", start_sample=0, end_sample=1, sample_rate_hz=1, duration_s=1.0,
            text=text, chars_per_s=float(rates[row]),
        )  # fmt: skip
        assert found["letters_per_s"][row] == letters_per_s(clip)
