"""``triforce tokens``: look at token shards, verify them, decode them."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from triforce.flows.cli.options import AsJson, example

app = typer.Typer(
    name="tokens",
    help="Look at token shards, verify them, decode them.",
    epilog=example("tokens stats data/tokens"),
    no_args_is_help=True,
)

TokensUri = Annotated[str, typer.Argument(help="The folder of the shards, or an address such as s3://bucket/tokens.")]
ReleaseUri = Annotated[str, typer.Option("--release", help="The release whose dVAE made them.")]
CorpusUri = Annotated[str, typer.Option("--corpus", help="The corpus that they were made of.")]


@app.command(epilog=example("tokens ls data/tokens --clips"))
def ls(
    uri: TokensUri,
    clips: Annotated[bool, typer.Option("--clips", help="List clips, not shards.")] = False,
    shard: Annotated[int | None, typer.Option(min=0, help="Only this shard's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """List shards, or with --clips their samples, one a line."""
    from triforce.ingest import storage
    from triforce.ingest.corpus.shard_names import shard_name, stale_mark
    from triforce.tokenize.plan import read_meta
    from triforce.tokenize.shards import read_shard, read_stats

    read_meta(uri)
    records = sorted((index, row) for index, row in read_stats(uri).items() if shard in (None, index))
    if shard is not None and not records:
        raise ValueError(f"{uri}: no {shard_name(shard)}; `triforce tokens ls` lists the shards")
    if clips:
        for sample in islice((one for i, _ in records for one in read_shard(storage.join(uri, shard_name(i)))), limit):
            row = {"clip_id": sample.clip_id, "codes": list(sample.codes.shape)} | sample.metadata
            grid = "x".join(map(str, sample.codes.shape))
            line = f"{sample.clip_id}  {sample.metadata['duration_s'] or 0:6.2f} s  {grid:>8}  {row['text'] or ''}"
            print(json.dumps(row, ensure_ascii=False) if as_json else line)
        return
    for index, row in islice(records, limit):
        stale = "  stale" if storage.exists(stale_mark(storage.join(uri, shard_name(index)))) else ""
        line = (
            f"{row['shard']}  {row['num_clips']:>6} clips  {row['num_codes']:>9} codes  {row['duration_s'] / 60:7.1f}"
        )
        failed = f"  {len(row['failed'])} failed" if row["failed"] else ""
        size = f"  {row['num_bytes'] / 1e6:8.2f} MB  {row['sha256'][:12]}{failed}{stale}"
        print(json.dumps(row) if as_json else line + size)


@app.command(epilog=example("tokens show data/tokens 571dd85f"))
def show(
    uri: TokensUri,
    clip: Annotated[str, typer.Argument(help="A clip's id, or the beginning of one.")],
    as_json: AsJson = False,
) -> None:
    """Show one sample: its codes, its text pieces, and where it came from."""
    from triforce.tokenize.restore import find_samples
    from triforce.tokenize.shards import load_tokenizer

    [sample] = find_samples(uri, [clip])
    if as_json:
        row = {"clip_id": sample.clip_id, "codes": sample.codes.tolist(), "text_pieces": sample.text.tolist()}
        print(json.dumps(row | {"metadata": sample.metadata}, ensure_ascii=False))
        return
    tokenizer = load_tokenizer(uri)
    print(f"{'clip':<14} {sample.clip_id}")
    for name, value in sample.metadata.items():
        if value is not None:
            print(f"{name:<14} {value}")
    print(f"{'text pieces':<14} " + " ".join(f"{piece}:{tokenizer.decode([piece])!r}" for piece in sample.text))
    print(f"{'codes':<14} {'x'.join(map(str, sample.codes.shape))}: {' '.join(map(str, sample.codes.ravel()))}")


@app.command(epilog=example("tokens stats data/tokens"))
def stats(uri: TokensUri, as_json: AsJson = False) -> None:
    """Count clips, codes and hours, and how much of the codebook is in use."""
    from triforce.tokenize.inspect.statistics import token_statistics

    found = token_statistics(uri)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    for name, text in found.lines():
        print(f"{name:<26} {text}")


@app.command(epilog=example("tokens verify data/tokens --corpus data/corpus --release data/release"))
def verify(
    uri: TokensUri,
    corpus: CorpusUri,
    release: ReleaseUri,
    recompute: Annotated[
        int,
        typer.Option(
            min=0, help="Encode so many clips again and compare bit for bit; on the kind of processor that made them."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the clips that are drawn for that.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check that every kept clip is there once, whole, in this dVAE's codes; exit with 1 if something is wrong."""
    from tqdm import tqdm

    from triforce.tokenize.inspect.verify import verify_tokens

    with tqdm(unit=" shards", disable=not sys.stderr.isatty()) as bar:

        def advance(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        found = verify_tokens(uri, corpus, release, recompute=recompute, seed=seed, on_progress=advance)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False))
    else:
        for fault in found.faults:
            print(f"{fault.kind:<16} {fault.place}: {fault.detail}")
        print(
            f"{len(found.faults)} faults in {found.num_shards} shards, {found.num_clips} clips, {found.num_codes} "
            f"codes; {found.num_recomputed} clips encoded again; {found.num_failed} clips could not be tokenized"
        )
    if found.faults:
        raise typer.Exit(1)


@app.command(epilog=example("tokens decode data/tokens --release data/release --limit 10 -o decoded"))
def decode(
    uri: TokensUri,
    release: ReleaseUri,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the files, one a clip.")] = Path("decoded"),
    clip: Annotated[
        list[str] | None, typer.Option(help="A clip's id, or the beginning of one; repeatable. Default: all.")
    ] = None,
    shard: Annotated[int | None, typer.Option(min=0, help="Only this shard's clips.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips.")] = None,
    sound: Annotated[str, typer.Option("--format", help="wav, flac, ogg or mp3, for sound.")] = "wav",
    diffusion: Annotated[bool, typer.Option("--diffusion", help="Through the diffusion network as well.")] = False,
) -> None:
    """Restore sound, pictures or video from codes."""
    from triforce.ingest import storage
    from triforce.ingest.corpus.shard_names import shard_name
    from triforce.models.release import Release
    from triforce.tokenize.restore import SOUNDS, check_release, find_samples, write_restored
    from triforce.tokenize.shards import list_shards, read_shard
    from triforce.tokenize.token_sample import TokenSample

    if sound not in SOUNDS:
        raise ValueError(f"--format {sound!r}: use one of {', '.join(SOUNDS)}")
    networks = Release.load(release)
    if diffusion and networks.diffusion is None:
        raise FileNotFoundError(f"{release}: no diffusion/config.json here; train one, or leave out --diffusion")
    modality = check_release(uri, networks)
    samples: Iterable[TokenSample]
    if clip:
        samples = find_samples(uri, clip)
    else:
        shards = list_shards(uri) if shard is None else [storage.join(uri, shard_name(shard))]
        samples = (sample for one in shards for sample in read_shard(one))
    count = 0
    for sample in islice(samples, limit):
        print(write_restored(networks, sample, modality, out, sound, diffusion=diffusion))
        count += 1
    print(f"{count} files in {out}")


@app.command(epilog=example("tokens picture data/tokens --corpus data/corpus --release data/release -o codes.html"))
def picture(
    uri: TokensUri,
    corpus: Annotated[str | None, typer.Option(help="The corpus, for sounds of the codes.")] = None,
    release: Annotated[str | None, typer.Option(help="The release whose dVAE made them, for the same.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("codes.html"),
) -> None:
    """Draw how often each code occurs, which follows which, and what the frequent ones sound like."""
    from triforce.flows.report.codes import write_codes_page

    print(write_codes_page(uri, str(out), corpus, release))
