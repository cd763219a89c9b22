"""The clips of a recording with a transcript: the published words where they agree, the recognised ones elsewhere.

All words of a recording must be known before the first can be placed, and its sound may be larger than memory, so the
clips wait in a temporary file.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from triforce.ingest import storage
from triforce.ingest.align.clip_texts import (
    MIN_COVERED,
    Published,
    RecordingAgreement,
    deal_out,
    recording_agreement,
)
from triforce.ingest.align.config import AlignConfig
from triforce.ingest.align.place import Heard
from triforce.ingest.align.published import automatic_reason, published_lines
from triforce.ingest.align.tokens import Token, tokenize
from triforce.ingest.asr.language import whisper_code
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA
from triforce.ingest.corpus.records import PUBLISHED, Clip, Recording
from triforce.ingest.corpus.store import Corpus

logger = logging.getLogger(__name__)

USE, UNUSED = "transcript_use", "transcript_unused"
"""Metadata keys: what a transcript gave, or why it gave nothing."""


class Unusable(ValueError):
    """A transcript that is not worth aligning; the message says why."""


def read_tokens(corpus: Corpus, recording: Recording) -> list[Token] | None:
    """Return what the transcript beside a recording says, None where there is none. Raises `Unusable`."""
    path = recording.metadata.get("transcript_path")
    if not path:
        return None
    try:
        text = storage.read_bytes(storage.join(corpus.uri, path)).decode("utf-8-sig", "replace")
    except FileNotFoundError as error:
        raise Unusable("its file is gone") from error
    lines = published_lines(text, path.rsplit(".", 1)[-1])
    if reason := automatic_reason(text, lines):
        raise Unusable(reason)
    if not (tokens := tokenize(lines)):
        raise Unusable("no words in it")
    return tokens


def prefer_published(
    clips: Iterable[Clip], recording: Recording, corpus: Corpus, config: AlignConfig
) -> Iterator[Clip]:
    """Yield the clips with the published words where they are preferred, and say in the recording's row what was done.

    Clips pass unchanged, and are not held back, where there is no transcript.
    """
    try:
        tokens = read_tokens(corpus, recording) if config.prefer_published else None
    except Unusable as reason:
        _note(recording, corpus, {UNUSED: str(reason)})
        tokens = None
    if tokens is None:
        yield from clips
        return
    with tempfile.TemporaryFile(prefix="triforce-clips-") as spool:
        writer = pa.ipc.new_stream(spool, CLIP_SCHEMA)
        heard, languages = [], []
        for clip in clips:
            writer.write_table(pa.Table.from_pylist([clip.to_row()], CLIP_SCHEMA))
            heard.append(Heard(clip.words or (), clip.start_sample / clip.sample_rate_hz))
            languages.append(clip.language)
        found = deal_out(heard, tokens)
        agreement = recording_agreement(found, heard)
        is_same = agreement.is_enough(config)
        preferred = [is_same and each.is_preferred(config) for each in found]
        _note(recording, corpus, _outcome(recording, preferred, agreement, config, languages))
        writer.close()
        spool.seek(0)
        for batch, each, takes in zip(pa.ipc.open_stream(spool), found, preferred, strict=True):
            yield _with_published(Clip.from_row(batch.to_pylist()[0]), each, takes)


def _with_published(clip: Clip, found: Published, takes: bool) -> Clip:
    if not clip.words:
        return clip
    if not takes:
        return replace(clip, agreement=found.agreement)
    rate = len(found.text) / clip.duration_s
    return replace(
        clip,
        text=found.text,
        words=found.words,
        chars_per_s=rate,
        text_source=PUBLISHED,
        agreement=found.agreement,
        recognised=clip.text,
    )


def _outcome(
    recording: Recording,
    preferred: list[bool],
    agreement: RecordingAgreement,
    config: AlignConfig,
    languages: list[str | None],
) -> dict[str, str]:
    if agreement.is_enough(config):
        what = f"published words for {sum(preferred)} of {len(preferred)} clips"
        return {USE: f"{what}; it covers {agreement.covered:.0%}, with an agreement of {agreement.median:.0%}"}
    stated = whisper_code(recording.metadata.get("transcript_language"))
    spoken = max(set(languages), key=languages.count, default=None)
    if stated and spoken and stated != spoken:
        return {UNUSED: f"it is in {stated}, and the speech in {spoken}"}
    if agreement.covered < MIN_COVERED:
        return {UNUSED: f"it covers {agreement.covered:.0%} of the speech: another text, translation or recording"}
    if agreement.median < config.min_recording_agreement:
        return {UNUSED: f"an agreement of {agreement.median:.0%}: another edition, or carelessly written"}
    return {UNUSED: f"it has other words for {agreement.contradicted:.0%} of those that were surely recognised"}


def _note(recording: Recording, corpus: Corpus, outcome: dict[str, str]) -> None:
    with contextlib.suppress(FileNotFoundError):
        if "removed_at" in corpus.read_recording(recording.source, recording.recording_id).metadata:
            return  # taken down meanwhile, and stays so
    kept = {key: value for key, value in recording.metadata.items() if key not in (USE, UNUSED)}
    corpus.write_recording(replace(recording, metadata=kept | outcome))
    logger.info("transcript of recording %s: %s", recording.recording_id, "; ".join(outcome.values()))
