"""The demo: the whole pipeline on real speech, from three sites on loopback to a report, in one folder."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triforce.flows.examples.demo.config import SAMPLING, SCRATCH, DemoConfig
from triforce.flows.examples.demo.sources import SOURCES, write_sources
from triforce.flows.examples.timed_steps import Timings, file_hash, release_hashes
from triforce.flows.jobs import environment
from triforce.flows.jobs.run_stage import run_tokenize, run_train
from triforce.ingest import storage
from triforce.models.voice import bundled
from triforce.models.voice.bundled import VOICE, located

if TYPE_CHECKING:
    from triforce.flows.examples.demo.speech import SpeechDataset
    from triforce.flows.pipeline import PipelineConfig

NUM_SAMPLES = 6
"""Held-out prompts whose sounds the report plays."""
NUM_TRAINING_TEXTS = 4
"""Texts from training that are read aloud."""
SENTENCE_WORDS = 12
"""Words of the sentence that is spoken: the held-out text nearest to this length. Assumed."""


def step_names(config: DemoConfig) -> list[str]:
    """Return the names of the demo's steps, in order."""
    training = [f"train-{stage}" for stage in config.minutes_of]
    first = ["speech", "sites", *(f"ingest-{kind}" for kind in SOURCES), "heldout", *training[:1], "tokenize"]
    return [*first, *training[1:], *(["vocoder"] if takes_vocoder(config) else []), "speak", "evaluate", "report"]


def takes_vocoder(config: DemoConfig) -> bool:
    """Whether the vocoder is the one that was begun at, as it is."""
    return not config.from_scratch and "vocoder" not in config.minutes_of


def run_demo(folder: Path, speech: Path | None = None, config: DemoConfig | None = None) -> None:
    """Run, or continue, the demo in ``folder``; what is done is skipped.

    ``speech`` is a folder of the user's own recordings. Raises ValueError where the folder was begun with other speech
    or from another release, FileNotFoundError where there is no release to begin at, and whatever a step raises.
    """
    config = config or DemoConfig()
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    environment.prepare(folder / "prefect")
    # Errors are raised; their tracebacks are not for the screen.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    _require_beginning(config)
    _remember(folder, speech, config)
    with _progress_on_screen():
        run_steps(folder, speech, config, Timings(folder, step_names(config), _say))
    _say(f"report: {folder / 'report.html'}" if (folder / "report.html").exists() else f"done: {folder}")


def run_steps(folder: Path, speech_folder: Path | None, config: DemoConfig, run: Timings) -> None:
    """The demo, top to bottom. Each step skips what an earlier run finished, and goes on where one was stopped."""
    from triforce.flows.examples.demo.speech import obtain_speech

    speech = functools.cache(lambda: obtain_speech(folder / "speech", speech_folder))
    given = str(speech_folder.absolute()) if speech_folder else None
    run.stored("speech", folder / "speech.json", lambda: given, lambda: describe_speech(speech()))
    run.stored("sites", folder / "sites/sites.json", lambda: given, lambda: make_sites(speech(), folder / "sites"))

    pipeline = pipeline_config(folder, config)
    for kind in SOURCES:
        key = functools.partial(_ingest_key, kind, folder, config)
        run.stored(f"ingest-{kind}", folder / "corpus", key, functools.partial(run_ingest, kind, folder, pipeline))
    make_heldout = functools.partial(_write_heldout, speech, folder / "heldout", config.judge)
    run.stored("heldout", folder / "heldout", lambda: [given, config.judge], make_heldout)

    _train("dvae", pipeline, run)
    with run.step("tokenize") as step:
        total = run_tokenize(pipeline.tokenize_config())
        step.line = (
            f"{total.num_clips} clips, {total.num_codes} codes in {total.num_shards} shards; words of "
            f"{total.num_refined} timed by their sounds"
        )
        step.done_before = total.num_new_shards == 0
    for stage in list(config.minutes_of)[1:]:
        _train(stage, pipeline, run)
    if takes_vocoder(config):
        take_vocoder(config.init_from, pipeline.uri("release"), run)

    release, evaluation = folder / "release", folder / "evaluation/evaluation.json"
    run.stored(
        "speak", folder / "spoken.wav", lambda: [release_hashes(release), SENTENCE_WORDS], lambda: _speak(folder)
    )
    voice = release_hashes(bundled.FOLDER)
    judged = functools.partial(_evaluate, folder, config, bundled_voice=bool(voice))
    run.stored("evaluate", evaluation, lambda: [release_hashes(release), config.judge, voice], judged)
    run.stored(
        "report",
        folder / "report.html",
        lambda: [release_hashes(release), file_hash(evaluation)],
        lambda: _report(folder),
    )


def describe_speech(speech: SpeechDataset) -> str:
    """Return a line on whose speech it is and how much."""
    held_s = sum(prompt.duration_s for prompt in speech.heldout)
    return (
        f"{speech.origin} ({speech.author}, {speech.licence}): {len(speech.training)} prompts with "
        f"{speech.training_s / 60:.1f} minutes, {len(speech.heldout)} held out with {held_s / 60:.1f}"
    )


def make_sites(speech: SpeechDataset, folder: Path) -> str:
    """Write the three sites; return a line on their sizes."""
    from triforce.flows.examples.demo.sites import lay_out_sites

    return ", ".join(f"{site} with {len(listed)}" for site, listed in lay_out_sites(speech, folder).items())


def pipeline_config(folder: Path, config: DemoConfig) -> PipelineConfig:
    """Return the run as a config of the flow ``pipeline``."""
    from triforce.flows.pipeline import PipelineConfig
    from triforce.ingest.asr.transcribe import TranscribeConfig
    from triforce.ingest.clips.clip_recording import ClipConfig
    from triforce.ingest.clips.cut import CutConfig

    return PipelineConfig(
        folder=str(folder),
        sources=str(folder / "sources.yaml"),
        # A prompt or two a clip, as the sentences that will be asked for.
        clips=ClipConfig(
            cut=CutConfig(merge_gap_s=0.6, max_s=12.0),
            transcribe=TranscribeConfig(model=config.recogniser, language="en"),
        ),
        tokenize=config.text,
        **config.recipes,
    )


def run_ingest(kind: str, folder: Path, pipeline: PipelineConfig) -> str:
    """Serve the sites on loopback and run the flow ``ingest`` on those of one kind."""
    from triforce.flows.examples.demo.serve_sites import serve
    from triforce.flows.ingest import ingest

    with serve(folder / "sites") as base_url:
        sources = write_sources(folder, base_url)
        [row] = ingest(kind, str(sources), pipeline.uri("corpus"), pipeline.clips)
    return (
        f"{row['fetched']} recordings, {row['hours']} h; {row['clips']} clips, {row['kept']} kept with "
        f"{row['kept hours']} h; dropped {row['dropped']}"
    )


def _ingest_key(kind: str, folder: Path, config: DemoConfig) -> list[Any]:
    """The sites, the recogniser, and the recordings that were clipped: one that is gone is fetched again."""
    from triforce.ingest.corpus.store import Corpus

    clipped = Corpus(str(folder / "corpus")).clipped_ids(SOURCES[kind])
    return [file_hash(folder / "sites/sites.json"), config.recogniser, sorted(clipped)]


def _write_heldout(speech: Callable[[], SpeechDataset], folder: Path, judge: str) -> str:
    from triforce.flows.examples.demo.heldout import write_heldout
    from triforce.ingest.corpus.store import Corpus

    return f"{write_heldout(speech(), Corpus(str(folder)), judge)} clips"


def _train(stage: str, pipeline: PipelineConfig, run: Timings) -> None:
    with run.step(f"train-{stage}") as step:
        summary = run_train(pipeline.train_config(stage))
        shown = [f"{name} {value:.4g}" for name, value in sorted(summary.metrics.items()) if "eval/" in name]
        step.line = f"{summary.steps} steps; {', '.join(shown)}"
        step.done_before = summary.skipped


def take_vocoder(init_from: str, release: str, run: Timings) -> None:
    """Copy the vocoder of the release that was begun at, where it has one; without, Griffin-Lim is the demo's."""
    from triforce.models.release_files import load_card

    taken, source = Path(release) / "vocoder", located(init_from)
    card = load_card(init_from, "vocoder")
    with run.step("vocoder") as step:
        step.line = f"that of {init_from}" if card else f"{init_from} has none: Griffin-Lim"
        step.done_before = (load_card(release, "vocoder") or {}).get("hash") == (card or {}).get("hash")
        if card and not step.done_before:
            for name in ("model.safetensors", "config.json"):  # the last one marks it as complete
                storage.write_bytes(taken / name, storage.read_bytes(storage.join(source, "vocoder", name)))


def _speak(folder: Path) -> str:
    """Say one held-out sentence, from its text alone, into ``spoken.wav``."""
    import soundfile

    from triforce.ingest.corpus.store import Corpus
    from triforce.models.gpt_sampling import SamplingConfig
    from triforce.models.release import Release

    texts = Corpus(str(folder / "heldout")).clips(["text"], kept_only=True)["text"].to_pylist()
    text = min(texts, key=lambda text: (abs(len(text.split()) - SENTENCE_WORDS), text))
    release = Release.load(str(folder / "release"))
    speech = release.speak(text, sampling=SamplingConfig(**SAMPLING))
    with storage.atomic_file(folder / "spoken.wav") as path:
        soundfile.write(path, speech.waveform, release.sample_rate_hz, format="WAV")
    seconds = len(speech.waveform) / release.sample_rate_hz
    return f"spoken.wav, {seconds:.1f} s in {speech.wall_s:.1f} s: {text!r}"


def _evaluate(folder: Path, config: DemoConfig, *, bundled_voice: bool) -> str:
    from triforce.models.gpt_sampling import SamplingConfig
    from triforce.train.evaluate.evaluate import EvaluateConfig, evaluate
    from triforce.train.evaluate.judge import JudgeConfig

    evaluation = evaluate(
        str(folder / "release"),
        str(folder / "heldout"),
        str(folder / "evaluation"),
        corpus_uri=str(folder / "corpus"),
        config=EvaluateConfig(
            judge=JudgeConfig(model=config.judge),
            num_training_clips=NUM_TRAINING_TEXTS,
            num_samples=NUM_SAMPLES,
            num_unseen_texts=config.num_unseen_texts,
            sampling=SamplingConfig(**SAMPLING),
            bundled_voice=bundled_voice,
        ),
    )
    return "WER " + ", ".join(f"{system.name} {system.wer.value:.1%}" for system in evaluation.systems)


def _report(folder: Path) -> str:
    from triforce.flows.report.report import write_report

    place = Path(write_report(folder))
    return f"{place.name}, {place.stat().st_size / 1e6:.1f} MB"


def _require_beginning(config: DemoConfig) -> None:
    from triforce.models.release_files import load_card

    if not config.from_scratch and load_card(config.init_from, "gpt") is None:
        raise FileNotFoundError(
            f"FROM={config.init_from}: no gpt/config.json here to go on from; name a release that reads, or train all "
            "networks from nothing: make demo FROM=scratch"
        )
    if "vocoder" in config.minutes_of and not config.from_scratch and not config.has_vocoder:
        raise FileNotFoundError(
            f"FROM={config.init_from}: no vocoder/config.json here to go on from; leave vocoder out of shares"
        )


def _remember(folder: Path, speech: Path | None, config: DemoConfig) -> None:
    begins = config.init_from if config.init_from in (VOICE, SCRATCH) else storage.absolute(config.init_from)
    given = {"speech": str(speech.absolute()) if speech else None, "init_from": begins}
    note = folder / "speech.json"
    if not note.exists():
        storage.write_bytes(note, json.dumps(given).encode())
        return
    begun = {"speech": None, "init_from": SCRATCH} | json.loads(note.read_text())
    if begun != given:
        speaker = f"SPEECH={begun['speech']}" if begun["speech"] else "the demo speech"
        raise ValueError(
            f"{folder} was begun with {speaker}, FROM={begun['init_from']}; go on with the same, or use another "
            "folder: make demo DEMO_FOLDER=..."
        )


def _say(line: str) -> None:
    """Print to the terminal: this is the one place of the demo that speaks to a person."""
    print(line, flush=True)


@contextmanager
def _progress_on_screen() -> Iterator[None]:
    """Show what our own stages log, indented below their names."""
    logger, handler = logging.getLogger("triforce"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("    %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
