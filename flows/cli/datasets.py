"""``triforce corpus import`` and ``export``: datasets that others made, and datasets for others."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triforce.flows.cli.corpus import CorpusUri, check_choice, open_corpus, say
from triforce.flows.cli.options import example

if TYPE_CHECKING:
    from triforce.ingest.corpus.store import Corpus

app = typer.Typer()


@app.command("import", epilog=example("corpus import LJSpeech-1.1 --corpus data/corpus --licence 'public domain'"))
def import_files(
    path: Annotated[
        Path,
        typer.Argument(help="A dataset's folder or manifest; with --modality a folder of files, texts beside as .txt."),
    ],
    uri: Annotated[str, typer.Option("--corpus", help="The corpus to import into; made where there is none.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="auto, or ljspeech, librispeech, libritts, common-voice, tsv, huggingface, nemo, lhotse.",
        ),
    ] = "auto",
    modality: Annotated[
        str | None, typer.Option(help="image, video or music: files as they are, in place of a dataset of speech.")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            help="With --modality image: a .csv, .tsv or .jsonl of file names and texts; by default metadata.csv or "
            ".jsonl in the folder, else, or with 'none', the .txt beside each picture."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Name of the source in the corpus; by default the folder's.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of what states none of its own.")] = None,
    language: Annotated[str | None, typer.Option(help="Language where the dataset states none, as in en.")] = None,
    transcribe: Annotated[
        bool, typer.Option("--transcribe", help="Transcribe utterances without a text; texts stay as they are.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="text=original, columns.text=NAME, filter.min_s=1, workers=4, author=...; "
            "of files clip_s=10, clip_frames=16, side=128, fit=pad; repeat.",
        ),
    ] = None,
) -> None:
    """Import a dataset of speech with its exact texts, or a folder of pictures, video or music.

    Again: only what is new. Datasets: LJSpeech, LibriSpeech, LibriTTS, Common Voice and other TSV, Hugging Face folders
    and Parquet, manifests of NeMo and Lhotse.
    """
    from triforce.flows.cli.settings import merged
    from triforce.ingest.corpus.store import Corpus

    given = {name: value for name, value in (("licence", licence), ("language", language)) if value is not None}
    given["source"] = source or _source_name(path)
    if modality is None:
        if captions is not None:
            raise ValueError("--captions is for pictures; add --modality image")
        _import_dataset(Corpus(uri), path, form, merged(given | ({"transcribe": {}} if transcribe else {}), settings))
        return
    from triforce.ingest.local_files import ImportConfig, import_folder

    for name, value in (("--format", form != "auto"), ("--language", language), ("--transcribe", transcribe)):
        if value:
            raise ValueError(f"{name} is for datasets of speech; leave it out, or leave out --modality {modality}")
    given |= {"modality": modality} | ({} if captions is None else {"captions": str(captions)})
    config = ImportConfig.model_validate(merged(given, settings))
    counts = import_folder(Corpus(uri), path, config)
    print(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))


def _import_dataset(corpus: Corpus, path: Path, form: str, fields: dict[str, Any]) -> None:
    from tqdm import tqdm

    from triforce.ingest.datasets.import_dataset import failure, import_dataset, summary_table
    from triforce.ingest.datasets.utterance import Dataset, DatasetConfig

    config = DatasetConfig.model_validate(fields)

    def say_found(dataset: Dataset) -> None:
        licence = config.licence or dataset.licence or "that of each row"
        say(f"{dataset.found}: format {dataset.format}, source {config.source}, licence {licence}")

    with tqdm(unit=" utterances", disable=not sys.stderr.isatty()) as bar:
        counts = import_dataset(
            corpus, path, config, form, on_found=say_found, on_part=lambda part: bar.update(part.num_in)
        )
    print(summary_table(counts))
    for reason, example_of in counts.examples.items():
        say(f"{reason}: {example_of}")
    if counts.rejected:
        print(f"`triforce corpus ls {corpus.uri} --source {config.source} --status rejected` lists what was rejected")
    if problem := failure(counts, config):
        print(f"triforce: {problem}", file=sys.stderr)
        raise typer.Exit(1)


@app.command(
    epilog=example("corpus export data/corpus speech --format huggingface --contact corpus@example.org"),
)
def export(
    uri: CorpusUri,
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must be new or empty.")],
    form: Annotated[str, typer.Option("--format", help="ljspeech, tsv, huggingface, parquet, nemo or lhotse.")],
    contact: Annotated[str, typer.Option(help="Address in the card, for who wants something taken down.")],
    audio: Annotated[str, typer.Option(help="flac or wav.")] = "flac",
    name: Annotated[str | None, typer.Option(help="Name of the dataset in its card; by default the folder's.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only this source; repeat.")] = None,
    speaker: Annotated[list[str] | None, typer.Option(help="Only this speaker; repeat.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Only this language; repeat.")] = None,
    min_score: Annotated[
        list[str] | None, typer.Option("--min-score", help="A least score, as in snr_db=20 or dnsmos_ovrl=3; repeat.")
    ] = None,
) -> None:
    """Write the kept clips as a dataset that others read, with a card: hours, licences, sources, scores, contact."""
    from tqdm import tqdm

    from triforce.flows.cli.settings import merged
    from triforce.ingest.export.config import ExportConfig
    from triforce.ingest.export.export import export_dataset

    corpus = open_corpus(uri)
    for each in source or ():
        check_choice("--source", each, corpus.sources())
    chosen = {"sources": source or (), "speakers": speaker or (), "languages": language or ()}
    config = ExportConfig.model_validate(
        {
            "format": form,
            "contact": contact,
            "audio": audio,
            "name": name,
            "min_scores": merged({}, min_score),
            **chosen,
        }
    )
    with tqdm(unit=" clips", disable=not sys.stderr.isatty()) as bar:
        summary = export_dataset(corpus, folder, config, on_clip=bar.update)
    print(summary.table())
    print(f"{folder}/README.md is its card")


def _source_name(path: Path) -> str:
    """The name of a folder, or of a file without endings, as a source may be called."""
    name = re.sub(r"[^a-z0-9]+", "-", path.absolute().name.split(".json")[0].lower().removesuffix(".tsv")).strip("-")
    return name[:40].rstrip("-") or "dataset"
