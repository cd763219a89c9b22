"""Settings of a tokenize run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from triforce.models.reading.front_end import FrontEndName


class TokenizeConfig(BaseModel):
    """Settings of a tokenize run; the number and kind of workers do not change the shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str = Field(description="URI of the corpus.")
    release: str = Field(description="URI of the release whose dVAE encodes.")
    tokens: str = Field(description="URI of the folder for the shards.")
    clips_per_shard: int = Field(
        256,
        ge=1,
        le=10_000,
        description="Clips in a shard; the last of a run may hold fewer. A whole shard is in memory as mels: 80 MB "
        "for 256 clips of 8 s.",
    )
    text: FrontEndName = Field(
        "bpe",
        description="Text front end: bpe, trained on the first run's texts; or, for English, phonemes (words of a "
        "dictionary as ARPAbet, others in letters) or characters, with which shards carry the times of words too.",
    )
    init_from: str | None = Field(
        None,
        description="URI of a release whose text front end is used, for a GPT that goes on from there; voice is the "
        "one that comes along. Decides text and normalised.",
    )
    normalised: bool = Field(
        False, description="Write figures and signs as words before bpe; the other front ends always do."
    )
    refine_times: bool = Field(
        False,
        description="Find the times of words and of their pieces anew, by what their sounds are like in the clips of "
        "their shard (`timing/`): a recogniser's are late by a tenth of a second. For front ends that keep words, "
        "phonemes and characters, and shards of more than a minute of speech.",
    )
    text_vocabulary_size: int = Field(512, ge=256, le=65_536, description="Pieces of bpe.")
    batch_positions: int = Field(
        4_096,
        ge=256,
        description="Positions of the medium in a batch, padding included: mel frames, of which 4096 are 44 s, or "
        "pixels. 4096 is fastest on a CPU; give 65536 on a GPU.",
    )
    num_workers: int = Field(1, ge=1, le=4096, description="Number of actors that hold the dVAE.")
    device: str = Field(
        "cpu", pattern=r"^(cpu|cuda)$", description="Device of the dVAE; `cuda` takes one GPU a worker."
    )
    cpus_per_worker: float = Field(1, gt=0, description="Cores and threads of a worker.")
    readers_per_worker: int = Field(
        1, ge=1, le=64, description="Actors that read and decode the next shards while a worker encodes one."
    )
    cpus_per_reader: float = Field(
        0,
        ge=0,
        description="Cores that such an actor reserves; with 0 it uses what workers leave, which suits one machine.",
    )
    max_failed_share: float = Field(
        0.01, ge=0, le=1, description="Share of clips that may fail before the run ends in an error."
    )

    @model_validator(mode="after")
    def _check_text(self) -> TokenizeConfig:
        if self.normalised and self.text != "bpe":
            raise ValueError(f"normalised: text {self.text} always is; leave it out")
        if self.init_from is not None and (self.text != "bpe" or self.normalised):
            raise ValueError(f"init_from {self.init_from}: its text front end is used; leave text and normalised out")
        if self.refine_times and self.text == "bpe" and self.init_from is None:
            raise ValueError("refine_times: text bpe keeps no words that could be timed; set text=phonemes")
        return self
