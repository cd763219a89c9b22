"""The flow ``pipeline``: from a list of sources to a release. Read it first: it is the whole pipeline, top to bottom.

A clip's way, by the functions it goes through:

1. `ingest` (flows/ingest.py), for each kind of source, makes the corpus.
   `sync.discover` (ingest/sync.py) reads feeds, libraries and channels and lists the recordings that are new;
   `sync.fetch` downloads one, hashes it and writes its row;
   `clip_recording` (ingest/clips/clip_recording.py) decodes it once, cuts it in silence, transcribes and scores each
   clip, and `Corpus.write_clips` (ingest/corpus/store.py) writes the clips as rows of a Parquet file.
2. `train` (flows/train.py) with the stage ``dvae`` fits the discrete VAE on the kept clips: `run_train`
   (flows/jobs/run_stage.py) calls `train` (train/job.py), whose workers run `Trainer.fit` (train/trainer/loop.py).
3. `tokenize` (flows/tokens.py) turns every kept clip into codes: `run_tokenize` calls `tokenize_corpus`
   (tokenize/job.py), which reads, encodes and writes shards of token samples.
4. `train` with the stage ``gpt`` fits the transformer on the shards.
5. `train` with the stage ``diffusion`` fits the network that restores what the dVAE lost, on the clips; where the
   stage ``vocoder`` is asked for, it then fits the one that turns mels into sound.

The release then speaks: `Release.speak` (models/release.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from pydantic import BaseModel, ConfigDict, Field, field_validator

from triforce.flows.ingest import ingest
from triforce.flows.jobs.source_choice import kinds_of
from triforce.flows.monitor.notify import stop_jobs, tell_failure
from triforce.flows.monitor.overview import overview
from triforce.flows.tokens import tokenize
from triforce.flows.train import train
from triforce.ingest import storage
from triforce.ingest.clips.clip_recording import ClipConfig
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import StageName, TrainConfig, train_config

PipelineStage = Literal["ingest", "dvae", "tokenize", "gpt", "diffusion", "vocoder"]
STAGES: tuple[PipelineStage, ...] = get_args(PipelineStage)
UNLESS_ASKED = STAGES[:-1]
"""The stages of a pipeline that names none: sound comes of mels without a trained vocoder too."""


class PipelineConfig(BaseModel):
    """One folder, local or in an object store, and the settings of each stage beside the folders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(min_length=1, description="URI below which corpus/, tokens/, runs/ and release/ lie.")
    sources: str = Field(description="URI of the sources.yaml.")
    stages: tuple[PipelineStage, ...] = Field(
        UNLESS_ASKED, min_length=1, description="Stages to run, in any order here; vocoder only where it is named."
    )
    clips: ClipConfig = Field(default_factory=ClipConfig, description="How recordings become clips.")
    tokenize: dict[str, Any] = Field(default_factory=dict, description="Fields of TokenizeConfig beside the folders.")
    dvae: dict[str, Any] = Field(default_factory=dict, description="Fields of TrainConfig beside the folders.")
    gpt: dict[str, Any] = Field(default_factory=dict, description="Fields of TrainConfig beside the folders.")
    diffusion: dict[str, Any] = Field(default_factory=dict, description="Fields of TrainConfig beside the folders.")
    vocoder: dict[str, Any] = Field(default_factory=dict, description="Fields of TrainConfig beside the folders.")

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[PipelineStage, ...]) -> tuple[PipelineStage, ...]:
        return tuple(stage for stage in STAGES if stage in stages)

    def uri(self, name: str) -> str:
        """URI of one of the folders."""
        return storage.join(self.folder, name)

    def stages_from(self, first: PipelineStage | None) -> tuple[PipelineStage, ...]:
        """Return the stages to run, from ``first`` on; raise ValueError where that leaves none."""
        begin = 0 if first is None else STAGES.index(first)
        stages = tuple(stage for stage in self.stages if STAGES.index(stage) >= begin)
        if not stages:
            raise ValueError(
                f"start_from={first!r}: comes after all of the stages {list(self.stages)}; add one to those"
            )
        return stages

    @property
    def tokens(self) -> str:
        """URI of the shards of the release's dVAE: codes of two dVAEs must not be mixed, so each has its own folder."""
        from triforce.models.release_files import codes_hash, load_card  # torch

        card = load_card(self.uri("release"), "dvae")
        if card is None:
            raise FileNotFoundError(f"{self.uri('release')}: no dVAE in it; run the stage dvae")
        return storage.join(self.folder, "tokens", codes_hash(card)[:12])

    def tokenize_config(self) -> TokenizeConfig:
        """Return the config of the stage ``tokenize``; raise FileNotFoundError where no dVAE is trained yet."""
        settings = {"corpus": self.uri("corpus"), "release": self.uri("release"), "tokens": self.tokens}
        return TokenizeConfig.model_validate(settings | self.tokenize)

    def train_config(self, stage: StageName) -> TrainConfig:
        """Return the config that trains one network."""
        data = {"tokens": self.tokens} if stage == "gpt" else {"corpus": self.uri("corpus")}
        settings = {"stage": stage, "release": self.uri("release"), "runs": self.uri("runs")}
        return train_config(**settings | data | getattr(self, stage))


@flow(
    name="pipeline",
    flow_run_name="pipeline in {config.folder}",
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
    on_cancellation=[stop_jobs],
)
def pipeline(
    config: PipelineConfig,
    start_from: PipelineStage | None = None,
    ray_dashboard: str | None = None,
    ray_cluster: str | None = None,
    ray_address: str | None = None,
) -> None:
    """Run the stages in their order; what an earlier run finished is skipped, so it may be run again at any time.

    Leave ``dvae`` out of the stages to add recordings to a corpus whose codes stay the same.

    Args:
        config: the folder, the sources, the stages and their settings.
        start_from: the first stage to run, where those before it are known to be done; left out, all of them.
        ray_dashboard: the dashboard of a Ray cluster for the stages that tokenize and train, as in http://head:8265;
            left out, the one that TRIFORCE_RAY_ADDRESS names, or else Ray starts here.
        ray_cluster: the address of the same cluster, ``host:6379`` or ``ray://host:10001``, to cut recordings on.
        ray_address: the old name of ray_dashboard.
    """
    ray_dashboard = ray_dashboard or ray_address
    for stage in config.stages_from(start_from):
        if stage == "ingest":
            for kind in kinds_of(config.sources):
                ingest(kind, config.sources, config.uri("corpus"), config.clips, ray_cluster=ray_cluster)
        elif stage == "tokenize":
            tokenize(config.tokenize_config(), ray_dashboard)
        else:
            train(config.train_config(stage), ray_dashboard)
    _report(config)


def _report(config: PipelineConfig) -> None:
    """Write the report and put an overview and a link among the artifacts; without the extra ``report``, log so."""
    from triforce.flows.report.report import write_report

    create_markdown_artifact(overview(config.folder), key="overview", description=f"What is in {config.folder}")
    try:
        place = write_report(config.folder)
    except ImportError as error:
        get_run_logger().warning("%s", error)
        return
    link = Path(place).absolute().as_uri() if storage.is_local(place) else place
    create_link_artifact(link, link_text="report", key="report", description=f"What is in {config.folder}: {link}")
