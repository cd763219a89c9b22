"""The demo: the whole pipeline on real speech, from three sites on loopback to a report, in one folder."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from triforce.flows.examples.demo.stages import Stage, run_stages
from triforce.flows.jobs import environment
from triforce.ingest import storage

SOURCES = {"podcast": "please-hold", "audiobook": "book-of-prompts", "youtube": "talks"}
"""The demo's sources, by kind."""
NUM_TEXTS = 8
"""Held-out texts that are read aloud and judged, as many as from training: a GPT of four minutes babbles at length."""
SENTENCE_WORDS = 12
"""The held-out sentence nearest to this length is the one spoken. Assumed."""


class DemoConfig(BaseModel):
    """How long and how large. The defaults fit 25 minutes on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(14.0, gt=0, description="Longest training time of the three networks together, in minutes.")
    shares: dict[str, float] = Field(
        {"dvae": 0.4, "gpt": 0.35, "diffusion": 0.25}, description="How the minutes are divided among the networks."
    )
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps of each network; none: its recipe's.")
    size: str = Field("tiny", description="Preset of the networks' shapes.")
    recogniser: str = Field("tiny.en", description="Whisper model that transcribes the sites.")
    judge: str = Field("base", description="Whisper model that everything is judged by.")


def run_demo(folder: Path, speech: Path | None = None, config: DemoConfig | None = None) -> None:
    """Run, or continue, the demo in ``folder``; what is done is skipped.

    ``speech`` is a folder of the user's own recordings. Raises ValueError where the folder was begun with other speech,
    and what a stage raises.
    """
    config = config or DemoConfig()
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    environment.prepare(folder / "prefect")
    os.environ.setdefault(
        "PREFECT_LOGGING_LEVEL", "CRITICAL"
    )  # errors are raised; their tracebacks are not for the screen
    _remember_speech(folder, speech)
    run = DemoRun(folder, speech, config)
    with _progress_on_screen():
        run_stages(run.stages(), folder, _say)
    _say(f"report: {folder / 'report.html'}" if (folder / "report.html").exists() else f"done: {folder}")


def _remember_speech(folder: Path, speech: Path | None) -> None:
    given = str(speech.absolute()) if speech else None
    note = folder / "speech.json"
    if not note.exists():
        storage.write_bytes(note, json.dumps({"speech": given}).encode())
    elif (begun := json.loads(note.read_text())["speech"]) != given:
        raise ValueError(
            f"{folder} was begun with {f'SPEECH={begun}' if begun else 'the demo speech'}; go on with the same, or use "
            "another folder: make demo DEMO_FOLDER=..."
        )


def _say(line: str) -> None:
    """To the terminal: this is the one place of the demo that speaks to a person."""
    print(line, flush=True)


@contextmanager
def _progress_on_screen() -> Iterator[None]:
    """What our own stages log, indented below their names."""
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


class DemoRun:
    """One folder and what the stages do in it."""

    def __init__(self, folder: Path, speech_folder: Path | None, config: DemoConfig) -> None:
        self.folder, self.speech_folder, self.config = folder, speech_folder, config

    def stages(self) -> list[Stage]:
        """In order; a change of a stage's settings makes it and all after it run again."""
        config = self.config
        ingest = [
            Stage(f"ingest-{kind}", functools.partial(self._ingest, kind), config.recogniser, ("corpus",))
            for kind in SOURCES
        ]
        return [
            Stage("speech", self._fetch_speech),
            Stage("sites", self._lay_out_sites, artifacts=("sites/sites.json",)),
            *ingest,
            Stage("heldout", self._write_heldout, config.judge, ("heldout",)),
            self._train_stage("dvae"),
            Stage("tokenize", self._tokenize, artifacts=("tokens",)),
            self._train_stage("gpt"),
            self._train_stage("diffusion"),
            Stage("speak", self._speak, SENTENCE_WORDS, ("spoken.wav",)),
            Stage("evaluate", self._evaluate, config.judge, ("evaluation/evaluation.json",)),
            Stage("report", self._report, artifacts=("report.html",)),
        ]

    @functools.cached_property
    def _speech(self):
        from triforce.flows.examples.demo.speech import obtain_speech

        return obtain_speech(self.folder / "speech", self.speech_folder)

    def _fetch_speech(self) -> str:
        speech = self._speech
        held_s = sum(prompt.duration_s for prompt in speech.heldout)
        return (
            f"{speech.origin} ({speech.author}, {speech.licence}): {len(speech.training)} prompts with "
            f"{speech.training_s / 60:.1f} minutes, {len(speech.heldout)} held out with {held_s / 60:.1f}"
        )

    def _lay_out_sites(self) -> str:
        from triforce.flows.examples.demo.sites import lay_out_sites

        programmes = lay_out_sites(self._speech, self.folder / "sites")
        return ", ".join(f"{site} with {len(listed)}" for site, listed in programmes.items())

    def _ingest(self, kind: str) -> str:
        from triforce.flows.examples.demo.serve import serve
        from triforce.flows.ingest import ingest

        with serve(self.folder / "sites") as base_url:
            sources = self.write_sources(base_url)
            [row] = ingest(kind, str(sources), str(self.folder / "corpus"), self._pipeline.clips)
        return (
            f"{row['fetched']} recordings, {row['hours']} h; {row['clips']} clips, {row['kept']} kept with "
            f"{row['kept hours']} h; dropped {row['dropped']}"
        )

    def write_sources(self, base_url: str) -> Path:
        """``sources.yaml`` for the three sites at ``base_url``."""
        pages = sorted(path.name for path in (self.folder / "sites/videos").glob("talk-*.html"))
        places = {
            "podcast": {"feeds": [f"{base_url}/podcast/feed.xml"]},
            "audiobook": {"base_url": f"{base_url}/library/api/feed/audiobooks"},
            "youtube": {"urls": [f"{base_url}/videos/{name}" for name in pages]},
        }
        document = {
            "contact": "demo@example.org",
            "allow_private_hosts": True,  # the sites are on loopback
            "requests_per_s": 50,
            "sources": [
                {"name": SOURCES[kind], "kind": kind, "language": "en"} | place for kind, place in places.items()
            ],
        }
        path = self.folder / "sources.yaml"
        storage.write_bytes(path, yaml.safe_dump(document, sort_keys=False).encode())
        return path

    def _write_heldout(self) -> str:
        from triforce.flows.examples.demo.heldout import write_heldout
        from triforce.ingest.corpus.store import Corpus

        count = write_heldout(self._speech, Corpus(str(self.folder / "heldout")), self.config.judge)
        return f"{count} clips"

    @functools.cached_property
    def _pipeline(self):
        """The run as the flow ``pipeline`` would be told it."""
        from triforce.flows.pipeline import PipelineConfig
        from triforce.ingest.asr.transcribe import TranscribeConfig
        from triforce.ingest.clips.clip_recording import ClipConfig

        return PipelineConfig(
            folder=str(self.folder),
            sources=str(self.folder / "sources.yaml"),
            clips=ClipConfig(transcribe=TranscribeConfig(model=self.config.recogniser, language="en")),
            **{name: self._training(name) for name in self.config.shares},
        )

    def _training(self, stage: str) -> dict:
        minutes = round(self.config.minutes * self.config.shares[stage], 2)
        steps = {} if self.config.max_steps is None else {"max_steps": self.config.max_steps}
        return {"size": self.config.size, "max_minutes": minutes} | steps

    def _train_stage(self, stage: str) -> Stage:
        return Stage(
            f"train-{stage}",
            functools.partial(self._train, stage),
            self._training(stage),
            (f"release/{stage}/model.safetensors",),
        )

    def _train(self, stage: str) -> str:
        from triforce.flows.train import train

        summary = train(self._pipeline.train_config(stage))
        shown = ", ".join(
            f"{name} {value:.4g}" for name, value in sorted(summary["metrics"].items()) if "eval/" in name
        )
        return f"{summary['steps']} steps; {shown}"

    def _tokenize(self) -> str:
        from triforce.flows.tokens import tokenize

        totals = tokenize(self._pipeline.tokenize_config())
        return f"{totals['num_clips']} clips, {totals['num_codes']} codes in {totals['num_shards']} shards"

    def _speak(self) -> str:
        """One held-out sentence, from its text alone."""
        import soundfile

        from triforce.ingest.corpus.store import Corpus
        from triforce.models.release import Release

        texts = Corpus(str(self.folder / "heldout")).clips(["text"], kept_only=True)["text"].to_pylist()
        text = min(texts, key=lambda text: (abs(len(text.split()) - SENTENCE_WORDS), text))
        release = Release.load(str(self.folder / "release"))
        speech = release.speak(text)
        with storage.atomic_file(self.folder / "spoken.wav") as path:
            soundfile.write(path, speech.waveform, release.sample_rate_hz, format="WAV")
        seconds = len(speech.waveform) / release.sample_rate_hz
        return f"spoken.wav, {seconds:.1f} s in {speech.wall_s:.1f} s: {text!r}"

    def _evaluate(self) -> str:
        from triforce.train.evaluate.evaluate import EvaluateConfig, evaluate
        from triforce.train.evaluate.judge import JudgeConfig

        evaluation = evaluate(
            str(self.folder / "release"),
            str(self.folder / "heldout"),
            str(self.folder / "evaluation"),
            corpus_uri=str(self.folder / "corpus"),
            config=EvaluateConfig(judge=JudgeConfig(model=self.config.judge), num_unseen_texts=NUM_TEXTS),
        )
        return "WER " + ", ".join(f"{system.name} {system.wer.value:.1%}" for system in evaluation.systems)

    def _report(self) -> str:
        from triforce.flows.report.report import write_report

        place = Path(write_report(self.folder))
        return f"{place.name}, {place.stat().st_size / 1e6:.1f} MB"
