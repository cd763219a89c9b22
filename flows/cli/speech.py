"""``triforce speak``, ``read``, ``serve`` and ``draw``: use a release."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from triforce.flows.cli.options import Panel, ReleaseUri, SpokenRelease, example, say_which
from triforce.flows.cli.settings import merged
from triforce.models.decoding.precision import Compiled, Precision
from triforce.models.voice.bundled import VOICE

app = typer.Typer()

Voices = Annotated[
    list[Path] | None, typer.Option("--voice", help="A recording of the voice to say it in; repeatable.")
]
Vocoder = Annotated[
    str | None,
    typer.Option(help="griffin-lim, vocos, or a folder of Vocos weights; by default the release's own, if it has one."),
]
Device = Annotated[str, typer.Option(help="Where the networks compute: cpu, cuda, or cuda:1 and so on.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="Of the GPT's weights on a CPU; auto takes what is fastest there."),
]
CompiledOption = Annotated[
    Compiled,
    typer.Option(help="Whether drawing in int8 is compiled on a CPU, by gcc or clang; auto: where there is one."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, as in sampling.temperature=0.7 seed=1."),
]


@app.command(rich_help_panel=Panel.SPEECH, epilog=example('speak "Good evening." -o evening.wav'))
def speak(
    text: Annotated[str, typer.Argument(help="What to say.")],
    release: SpokenRelease = VOICE,
    out: Annotated[Path, typer.Option("--out", "-o", help="Sound file to write; its ending says the format.")] = Path(
        "speech.wav"
    ),
    voice: Voices = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed; another number gives another utterance.")] = 0,
    speed: Annotated[float, typer.Option(min=0.25, max=4, help="2 takes half the time.")] = 1.0,
    candidates: Annotated[int, typer.Option(min=1, help="Utterances to draw; Whisper picks the best of several.")] = 1,
    vocoder: Vocoder = None,
    device: Device = "cpu",
    precision: PrecisionOption = "auto",
    compiled: CompiledOption = "auto",
    settings: Settings = None,
) -> None:
    """Say a text in the voice of a release."""
    import soundfile

    from triforce.flows.speech.speaker import SpeakConfig, Speaker, join
    from triforce.flows.speech.voices import read_waveform
    from triforce.ingest import storage
    from triforce.models.release import Release

    kind = out.suffix.lower().lstrip(".").upper()
    if kind not in soundfile.available_formats():
        raise ValueError(f"--out {out}: unknown sound format {out.suffix!r}; use .wav, .flac, .ogg or .mp3")
    fields: dict[str, Any] = {"speed": speed, "sampling": {"num_candidates": candidates}}
    config = SpeakConfig.model_validate(merged(fields, settings))
    say_which(release)
    model = Release.load(release, device=device, vocoder=vocoder, precision=precision, compiled=compiled)
    speaker = Speaker(model, config, voices=[read_waveform(path, model.sample_rate_hz) for path in voice or []])
    started = time.monotonic()
    utterances = list(speaker.read(text, seed=seed))
    rate = model.sample_rate_hz
    waveform = join(utterances, rate)
    if not any(utterance.waveform.size for utterance in utterances):
        raise RuntimeError("the network said nothing; try another --seed, or train it longer")
    with storage.atomic_file(out) as temporary:
        soundfile.write(os.fsencode(temporary), waveform, rate, format=kind)
    heard = " ".join(utterance.heard for utterance in utterances if utterance.heard is not None)
    typer.echo(f"{out}: {len(waveform) / rate:.1f} s, made in {time.monotonic() - started:.1f} s")
    if config.listens:
        typer.echo(f"heard: {heard or '(nothing)'}")


@app.command(rich_help_panel=Panel.SPEECH, epilog=example("read book.epub -o book.m4b"))
def read(
    book: Annotated[Path, typer.Argument(help="The book: .txt, .md or .epub.")],
    release: SpokenRelease = VOICE,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .m4b to write; by default named as the book.")
    ] = None,
    voice: Voices = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed; another number gives another utterance.")] = 0,
    vocoder: Vocoder = None,
    device: Device = "cpu",
    precision: PrecisionOption = "auto",
    compiled: CompiledOption = "auto",
    settings: Settings = None,
) -> None:
    """Read a whole book aloud, with chapters; again, it continues where it was stopped."""
    from triforce.flows.speech.read import ReadConfig, read_book
    from triforce.flows.speech.voices import read_waveform
    from triforce.models.release import Release

    config = ReadConfig.model_validate(merged({"seed": seed}, settings))
    target = out or Path(book.with_suffix(".m4b").name)
    say_which(release)
    model = Release.load(release, device=device, vocoder=vocoder, precision=precision, compiled=compiled)
    voices = [read_waveform(path, model.sample_rate_hz) for path in voice or []]
    summary = read_book(book, target, model, voices=voices, config=config)
    minutes = f"{summary.duration_s / 60:.1f} min"
    typer.echo(f"{summary.out}: {summary.num_chapters} chapters, {summary.num_pieces} pieces, {minutes}")
    if summary.wrong:
        typer.echo(f"{len(summary.wrong)} pieces are not heard as they are written ({target}.work/report.json):")
        for row in summary.wrong[:5]:
            typer.echo(f"  {row['chapter']}: {row['text']!r}, heard as {row['heard']!r}")


@app.command(rich_help_panel=Panel.SPEECH, epilog=example("serve --port 8123"))
def serve(
    release: SpokenRelease = VOICE,
    host: Annotated[str, typer.Option(help="Address to listen on; one that others reach needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8123,
    voices: Annotated[
        Path | None, typer.Option(help="A folder of recordings, each a voice by its file's name.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of the networks that work side by side.")] = 1,
    vocoder: Vocoder = None,
    device: Device = "cpu",
    precision: PrecisionOption = "auto",
    compiled: CompiledOption = "auto",
    settings: Settings = None,
) -> None:
    """An OpenAI-compatible speech endpoint and a small page; the key is what TRIFORCE_API_KEY holds."""
    from triforce.flows.speech.serve import ServeConfig
    from triforce.flows.speech.serving.start import serve_forever

    fields: dict[str, Any] = {"release": release, "host": host, "port": port, "replicas": replicas, "vocoder": vocoder}
    fields |= {"device": device, "precision": precision, "compiled": compiled}
    fields["voices"] = None if voices is None else str(voices)
    say_which(release)
    serve_forever(ServeConfig.model_validate(merged(fields, settings)))


@app.command(rich_help_panel=Panel.SPEECH, epilog=example('draw "red apple" --release emoji-run/release -o apple.png'))
def draw(
    text: Annotated[str, typer.Argument(help="What to draw.")],
    release: ReleaseUri = "data/release",
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file to write.")] = Path("picture.png"),
    candidates: Annotated[int, typer.Option(min=1, help="Pictures to draw; the network keeps the best.")] = 8,
    grid: Annotated[bool, typer.Option("--grid", help="All candidates side by side, the best first.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed; another number gives other pictures.")] = 0,
    device: Device = "cpu",
    precision: PrecisionOption = "auto",
    compiled: CompiledOption = "auto",
    settings: Settings = None,
) -> None:
    """Draw a text by a release that was trained on pictures with texts."""
    from triforce.flows.pictures.draw import DrawConfig, draw_to_file

    fields: dict[str, Any] = {"sampling": {"num_candidates": candidates}, "grid": grid, "seed": seed}
    config = DrawConfig.model_validate(merged(fields, settings))
    drawing = draw_to_file(release, text, out, config, device=device, precision=precision, compiled=compiled)
    height, width = drawing.pictures[0].shape[1:]
    count = len(drawing.candidates)
    typer.echo(f"{out}: {width} x {height}, best of {count}, drawn in {drawing.wall_s:.1f} s")
