"""``triforce corpus``: look at a corpus, check it, take things out of it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
from collections import Counter
from itertools import islice
from typing import Annotated

import typer

from triforce.flows.cli.options import AsJson, example

app = typer.Typer(
    name="corpus",
    help="Look at a corpus, check it, take recordings out of it.",
    epilog=example("corpus stats data/corpus"),
    no_args_is_help=True,
)

MAX_SHOWN = 500
"""Characters up to which `show` prints a value of a recording's metadata. Assumed."""

CorpusUri = Annotated[str, typer.Argument(help="The corpus: a folder, or an address such as s3://bucket/corpus.")]


def open_corpus(uri: str):
    """Return the corpus at ``uri``; raise ValueError where there is none."""
    from triforce.ingest.corpus.store import Corpus

    corpus = Corpus(uri)
    if not corpus.sources():
        raise ValueError(
            f"{uri!r} holds no corpus: no source below its 'recordings' folder; give the folder that ingest wrote"
        )
    return corpus


@app.command(epilog=example("corpus ls data/corpus --status rejected"))
def ls(
    uri: CorpusUri,
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    status: Annotated[str | None, typer.Option(help="Only fetched, rejected or duplicate ones.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those rejected, or duplicates, for this reason.")] = None,
    author: Annotated[str | None, typer.Option(help="Only by this author.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """List recordings, one a line."""
    from triforce.ingest.corpus.records import RejectReason, Status
    from triforce.ingest.corpus.stats import list_recordings

    corpus = open_corpus(uri)
    check_choice("--status", status, [*Status][1:])
    check_choice("--reason", reason, [*RejectReason])
    check_choice("--source", source, corpus.sources())
    found = list_recordings(corpus, source=source, status=status, reason=reason, author=author)
    for item in islice(found, limit):
        if as_json:
            print(json.dumps(dataclasses.asdict(item), ensure_ascii=False))
            continue
        length = float(item.metadata.get("decoded_duration_s", item.duration_s or 0.0))
        state = item.status if item.reason is None else f"{item.status}: {item.reason}"
        state = "removed" if "removed_at" in item.metadata else state
        say(f"{item.recording_id}  {item.source:<20} {_clock(length)}  {state:<28} {item.title or item.url}")


@app.command(epilog=example("corpus show data/corpus 571dd85f"))
def show(
    uri: CorpusUri,
    identifier: Annotated[str, typer.Argument(help="A recording's id, the beginning of one, or a clip's id.")],
    as_json: AsJson = False,
) -> None:
    """Show one recording: where it came from, what became of it, and its clips beside what a transcript says there."""
    from triforce.ingest.corpus.records import RejectReason
    from triforce.ingest.corpus.stats import clips_of, find_recording
    from triforce.ingest.errors import REASONS
    from triforce.ingest.fetch.transcripts import read_cues, text_between

    corpus = open_corpus(uri)
    item = find_recording(corpus, identifier)
    clips = clips_of(corpus, item)
    published = read_cues(corpus, item)
    rows = clips.to_pylist() if clips is not None else []
    if "-" in identifier:
        rows = [row for row in rows if row["clip_id"] == identifier]
        if not rows:
            raise ValueError(
                f"recording {item.recording_id} has no clip {identifier!r}; `show {item.recording_id}` lists its clips"
            )
    if as_json:
        print(json.dumps(dataclasses.asdict(item) | {"clips": rows}, ensure_ascii=False, default=str))
        return
    for name, value in dataclasses.asdict(item).items():
        if value not in (None, {}):
            say(f"{name:<14} {_flat(value)}")
    if item.reason:
        say(f"{'what to do':<14} {REASONS[RejectReason(item.reason)].advice}")
    say(f"{'clips':<14} {len(rows) if clips is not None else 'not cut yet'}")
    for row in rows:
        span = f"{row['start_sample'] / row['sample_rate_hz']:9.2f} s  {row['duration_s']:6.2f} s"
        say(f"  {row['clip_id']}  {span}  {row['drop_reason'] or 'keep':<16} {row['text'] or ''}")
        if published is not None and row["end_sample"]:
            begin_s, end_s = (row[f"{edge}_sample"] / row["sample_rate_hz"] for edge in ("start", "end"))
            say(f"{'':<30}published: {text_between(published, begin_s, end_s)}")


@app.command(epilog=example("corpus stats data/corpus"))
def stats(uri: CorpusUri, as_json: AsJson = False) -> None:
    """Count recordings, clips and hours, by source and by reason."""
    from triforce.ingest.corpus.stats import stats as count

    by_source = count(open_corpus(uri))
    if as_json:
        print(json.dumps({name: item.as_dict() for name, item in by_source.items()}))
        return
    columns = ("fetched", "dupl.", "rejected", "hours", "clips", "kept", "kept h", "GB")
    print(f"{'source':<20}" + "".join(f" {name:>8}" for name in columns))
    for name, item in by_source.items():
        fetched, duplicate, rejected = (item.recordings[key] for key in ("fetched", "duplicate", "rejected"))
        print(
            f"{name:<20} {fetched:>8} {duplicate:>8} {rejected:>8} {item.recorded_s / 3600:>8.2f} {item.num_clips:>8} "
            f"{item.num_kept:>8} {item.kept_s / 3600:>8.2f} {item.num_bytes / 1e9:>8.2f}"
        )
    total = by_source["total"]
    for title, counts in (
        ("recordings rejected or duplicate", total.reasons),
        ("clips not kept", total.drops),
        ("clips kept, by language", total.languages),
        ("recordings, by licence", total.licences),
    ):
        if counts:
            say("")
            say(f"{title}: " + ", ".join(f"{key or 'unknown'} {count}" for key, count in counts.most_common()))


@app.command(epilog=example("corpus verify data/corpus --quick"))
def verify(
    uri: CorpusUri,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes and rows only: hash no file, decode no clip.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is broken, so that the next run makes it again.")
    ] = False,
) -> None:
    """Check every file and row; exit with 1 if something is wrong."""
    from tqdm import tqdm

    from triforce.ingest.corpus.verify import verify as check

    corpus = open_corpus(uri)
    with tqdm(unit=" recordings", disable=not sys.stderr.isatty()) as bar:
        faults = check(corpus, deep=not quick, repair=repair, on_progress=lambda _: bar.update())
    for fault in faults:
        say(f"{fault.kind:<18} {fault.path}: {fault.detail}")
    print(f"{len(faults)} faults{', repaired: run the ingest again' if repair and faults else ''}")
    if faults and not repair:
        raise typer.Exit(1)


@app.command(epilog=example("corpus compact data/corpus"))
def compact(
    uri: CorpusUri,
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    max_mb: Annotated[int, typer.Option(min=1, max=1024, help="Size of a pack in MiB, at most.")] = 1024,
    undo: Annotated[bool, typer.Option("--undo", help="Make each file one by itself again.")] = False,
) -> None:
    """Put the small files of a corpus into packs; every command reads both, and an ingest may run meanwhile."""
    from triforce.ingest.corpus.packs.compact import compact as pack
    from triforce.ingest.corpus.packs.compact import unpack

    corpus = open_corpus(uri)
    check_choice("--source", source, corpus.sources())
    done = unpack(corpus, source=source) if undo else pack(corpus, source=source, max_bytes=max_mb << 20)
    for item in done:
        moved = "taken out" if undo else "packed"
        say(f"{item.folder}: {item.num_files} files {moved}, {item.num_bytes / 1e6:.1f} MB; packs: {item.num_packs}")


@app.command(epilog=example('corpus rm data/corpus --author "A. Name" --tokens data/tokens'))
def rm(
    uri: CorpusUri,
    recording: Annotated[list[str] | None, typer.Option(help="A recording's id; may be given several times.")] = None,
    source: Annotated[str | None, typer.Option(help="All recordings of a source.")] = None,
    author: Annotated[str | None, typer.Option(help="All recordings by an author.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Mark the shards there stale that hold samples of them.")] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Keep no mark, so that a sync may fetch them again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take recordings out with everything derived from them, and keep them out."""
    from triforce.ingest.corpus.stats import find_recording, list_recordings
    from triforce.ingest.corpus.takedown import remove

    if not (recording or source or author):
        raise ValueError("nothing named; give --recording, --source or --author")
    if recording and (source or author):
        raise ValueError("--recording names recordings one by one; leave out --source and --author")
    corpus = open_corpus(uri)
    check_choice("--source", source, corpus.sources())
    if recording:
        chosen = [find_recording(corpus, identifier) for identifier in recording]
    else:
        chosen = [
            item for item in list_recordings(corpus, source=source, author=author) if "removed_at" not in item.metadata
        ]
    plan = remove(corpus, chosen, tokens=tokens, forget=forget, dry_run=True)
    for item in plan.recordings:
        say(f"{item.recording_id}  {item.source:<20} {item.title or item.url}")
    size = f"{plan.num_bytes / 1e6:.1f} MB"
    print(f"{len(plan.recordings)} recordings, {plan.num_clips} clips, {size}, {len(plan.stale_shards)} shards")
    if not plan.recordings or not (yes or typer.confirm("Remove them for good?")):
        return
    done = remove(corpus, chosen, tokens=tokens, forget=forget)
    if done.stale_shards:
        print(f"removed; these shards are stale, tokenize makes them again: {', '.join(done.stale_shards)}")
    else:
        print(
            "removed" if tokens else "removed; no --tokens was given, so shards that were made of them stay as they are"
        )


@app.command(epilog=example("corpus retry data/corpus --reason too_long"))
def retry(
    uri: CorpusUri,
    reason: Annotated[str | None, typer.Option(help="Only those rejected, or duplicates, for this reason.")] = None,
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    newer_than: Annotated[
        float | None, typer.Option(min=0, help="Only those tried in the last so many days, as after an outage.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Only those last tried more than so many days ago.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be taken up, and change nothing.")
    ] = False,
) -> None:
    """Take rejected recordings up again, by reason, source or age: the next ingest tries them as new ones."""
    from triforce.ingest.corpus.records import RejectReason
    from triforce.ingest.corpus.retry import rejected, take_up

    if reason is None and source is None and newer_than is None and older_than is None:
        raise ValueError("nothing named; give --reason, --source, --newer-than or --older-than")
    corpus = open_corpus(uri)
    check_choice("--reason", reason, [*RejectReason])
    check_choice("--source", source, corpus.sources())
    after, before = _days_ago(newer_than), _days_ago(older_than)
    chosen = list(rejected(corpus, source=source, reason=reason, after=after, before=before))
    for item in chosen:
        say(f"{item.recording_id}  {item.source:<20} {item.reason:<16} {item.title or item.url}")
    if dry_run:
        print(f"{len(chosen)} recordings would be taken up")
        return
    print(f"{take_up(corpus, chosen)} recordings taken up; run the ingest again")


@app.command(epilog=example("corpus refilter data/corpus --set min_snr_db=10 --dry-run"))
def refilter(
    uri: CorpusUri,
    config: Annotated[
        str | None, typer.Option("--config", help="A YAML file of limits, as `corpus browse` saves it.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A limit of the filters, as in min_snr_db=10; repeat.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
) -> None:
    """Decide again which clips are kept, from their stored scores and from marks; no audio is touched."""
    from triforce.flows.cli.settings import merged
    from triforce.ingest.clips.filters import FilterConfig
    from triforce.ingest.clips.refilter import decide_again
    from triforce.ingest.strict_yaml import load_model

    fields = load_model(config, FilterConfig).model_dump(exclude_unset=True) if config else {}
    limits = FilterConfig.model_validate(merged(fields, settings))
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for changes in decide_again(open_corpus(uri), limits, dry_run=dry_run):
        counts.update(zip(*(changes[name].to_pylist() for name in ("before", "after")), strict=True))
    for (before, after), count in counts.most_common():
        print(f"{before or 'kept':<18} -> {after or 'kept':<18} {count}")
    verb = "would change" if dry_run else "changed"
    print(f"{counts.total()} clips {verb}; the next `triforce tokenize` renews the shards that hold them")


@app.command(epilog=example("corpus browse data/corpus --release data/release"))
def browse(
    uri: CorpusUri,
    config: Annotated[
        str | None, typer.Option("--config", help="Where Save writes the thresholds; by default CORPUS/filter.yaml.")
    ] = None,
    release: Annotated[str | None, typer.Option(help="A release: shows codes and what they decode to.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Its token shards: codes are taken from there.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; one that others reach needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8124,
) -> None:
    """Open a page: search, hear and mark clips, and try thresholds; the key is what TRIFORCE_API_KEY holds."""
    from triforce.flows.browse.server import BrowseConfig, serve_forever

    open_corpus(uri)
    serve_forever(BrowseConfig(corpus=uri, config=config, release=release, tokens=tokens, host=host, port=port))


@app.command(epilog=example("corpus rescore data/corpus --no-dnsmos"))
def rescore(
    uri: CorpusUri,
    voices: Annotated[bool, typer.Option(help="Who speaks: embeddings, labels, conditioning clips.")] = True,
    dnsmos: Annotated[bool, typer.Option(help="How good it sounds, by DNSMOS.")] = True,
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the voices, as in min_similarity=0.8; repeat.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also the recordings that have these scores.")] = False,
) -> None:
    """Add the scores that need models of their own; `refilter` then judges by them."""
    from tqdm import tqdm

    from triforce.flows.cli.settings import merged
    from triforce.ingest.clips.rescore import rescore as run_rescore
    from triforce.ingest.clips.speakers import SpeakerConfig

    if not (voices or dnsmos):
        raise ValueError("nothing to compute: leave out one of --no-voices and --no-dnsmos")
    config = SpeakerConfig.model_validate(merged({}, settings)) if voices else None
    with tqdm(unit=" recordings", disable=not sys.stderr.isatty()) as bar:
        done = run_rescore(
            open_corpus(uri),
            voices=config,
            dnsmos=dnsmos,
            again=again,
            source=source,
            on_recording=lambda _: bar.update(),
        )
    for item in done:
        heard = "" if item.num_speakers is None else f"  {item.num_speakers:3d} speakers"
        quality = "" if item.mean_dnsmos is None else f"  DNSMOS {item.mean_dnsmos:.2f}"
        print(f"{item.recording_id}  {item.source:<20} {item.num_clips:5d} clips{heard}{quality}")
    print(f"{len(done)} recordings; `triforce corpus refilter` decides by the new scores which clips are kept")


def _days_ago(days: float | None) -> datetime.datetime | None:
    return None if days is None else datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60:3d}:{minutes % 60:02d}:{second:02d}"


def check_choice(option: str, value: str | None, choices: list[str]) -> None:
    """Raise ValueError for a value of an option that is none of the choices."""
    if value is not None and value not in choices:
        raise ValueError(f"{option} {value}: there is none; use one of: {', '.join(choices)}")


def say(line: str) -> None:
    """Print a line that may quote foreign text: characters that could control a terminal are made visible."""
    print("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line))


def _flat(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(
        f"{key}={item if len(item) <= MAX_SHOWN else f'({len(item)} characters)'}" for key, item in value.items()
    )
