"""The complete settings of a training run: one class a stage, put together from what each reader reads.

For the user they are flat: ``{stage: dvae, corpus: ..., batch_size: 8, model: {hidden: 64}}``. `train_config` makes the
class of the stage from such fields and fills in what is not set from the recipe of ``size``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from triforce.ingest import storage
from triforce.models.audio.vocos import VocosConfig
from triforce.models.diffusion import DiffusionConfig
from triforce.models.dvae import DVAEConfig
from triforce.models.flow_samplers import SamplerConfig
from triforce.models.gpt import GPTShape
from triforce.models.release_files import load_card
from triforce.models.voice.bundled import VOICE
from triforce.train import identity
from triforce.train.data.config import CROP_AXES, SoundCropConfig, TokenDataConfig
from triforce.train.recipes import diffusion, dvae, gpt, vocoder
from triforce.train.teachers.config import TaughtConfig
from triforce.train.trainer.config import LoopConfig

StageName = Literal["dvae", "gpt", "diffusion", "vocoder"]
SizeName = Literal["tiny", "small", "medium", "tortoise", "dall-e"]
READ_AS = ("layouts", "context", "voice_codes", "loss_weights", "spelled_share", "text_dropout", "code_noise")
"""Settings that a GPT's training goes on with where it begins at a release: how documents are made of clips."""
ConfigT = TypeVar("ConfigT", bound=BaseModel)
StageConfigT = TypeVar("StageConfigT", bound="StageConfig")

FOLDERS = ("corpus", "release", "tokens", "more_tokens", "runs", "init_from")
"""Fields of configs that are URIs of folders, or tuples of such."""


class PlacesConfig(BaseModel):
    """Where a run writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str = Field(
        description="URI of the release: the stage is written here, earlier stages are read from here."
    )
    runs: str = Field(description="URI of the folder for checkpoints and metrics.")


class ClusterConfig(BaseModel):
    """What `job.train` reads: the workers that share a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    launcher: Literal["auto", "here", "ray"] = Field(
        "auto",
        description="Who starts the workers. here: this process is the one, and under torchrun each of its processes; "
        "ray: Ray Train, on this machine or a cluster, which also restarts them; auto: here for one worker where "
        "neither RAY_ADDRESS nor readers_per_worker ask for Ray, and under torchrun.",
    )
    num_workers: int = Field(1, ge=1, le=4096, description="Data-parallel workers, at most.")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Workers that are enough to go on with when others are lost, sharing about the same batch; none: "
        "all of them.",
    )
    use_gpu: bool = Field(False, description="One GPU a worker.")
    threads_per_worker: int | None = Field(
        None, ge=1, description="CPU threads of a worker; none: its share of its machine's cores."
    )
    check_memory: bool = Field(
        True,
        description="Refuse a run that by far cannot fit in the memory of its device; false: begin it all the same.",
    )
    max_failures: int = Field(3, ge=-1, description="Restarts after a worker's death before the run ends; -1: no end.")

    @model_validator(mode="after")
    def _check_workers(self) -> ClusterConfig:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers}: at most num_workers, {self.num_workers}")
        return self


def _model_may_be_left_out(schema: dict[str, Any]) -> None:
    """Say so in the JSON schema, by which Prefect checks a deployment's parameters: the recipe fills the network in."""
    schema["required"] = [name for name in schema["required"] if name != "model"]


class StageConfig(PlacesConfig, LoopConfig, ClusterConfig):
    """What the configs of all stages share. Saved with the release that the run makes."""

    model_config = ConfigDict(json_schema_extra=_model_may_be_left_out)

    recipes: ClassVar[dict[str, dict[str, Any]]]
    """Fields of each named size."""
    data_field: ClassVar[Literal["corpus", "tokens"]] = "corpus"
    """The field that names the data."""

    stage: StageName
    size: SizeName = Field("tiny", description="Recipe: shape of the network, batch, steps and rates.")
    batch_size: int = Field(
        16, ge=1, description="Samples (dvae, diffusion, vocoder) or packed rows (gpt) a step, over all workers."
    )
    model: BaseModel

    @model_validator(mode="before")
    @classmethod
    def _fill_from_recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        stage, size = cls.model_fields["stage"].default, values.get("size", "tiny")
        _refuse_fields_of_other_stages(stage, values)
        if size not in cls.recipes:
            raise ValueError(f"size {size!r}: stage {stage} has {', '.join(cls.recipes)}")
        if values.get(cls.data_field) is None:
            raise ValueError(f"stage {stage} needs {cls.data_field}: give the URI of the {cls.data_field}")
        recipe = cls.recipe(values, size)
        filled = recipe | values
        for name in ("model", "optimizer"):
            given = values.get(name, {})
            filled[name] = recipe.get(name, {}) | given if isinstance(given, dict) else given
        return filled

    @classmethod
    def recipe(cls, values: dict[str, Any], size: str) -> dict[str, Any]:
        """Fields that hold where ``values`` do not set them: those of the named size."""
        return cls.recipes[size]

    @model_validator(mode="after")
    def _check_batch(self) -> StageConfig:
        if self.batch_size % (self.num_workers * self.accumulation):
            raise ValueError(
                f"batch_size {self.batch_size}: must be a multiple of num_workers x accumulation, "
                f"{self.num_workers * self.accumulation}"
            )
        if self.sharding == "fsdp" and self.stage != "gpt":
            raise ValueError(f"sharding fsdp: stage {self.stage} is small and trains with ddp")
        return self

    @field_serializer("model")
    def _dump_what_is_set(self, model: BaseModel) -> dict[str, Any]:
        """Leave out what the data decides unless a config sets it: channels, vocabulary, axes, latents, positions."""
        return model.model_dump(mode="json", exclude_unset=True)

    @property
    def model_settings(self) -> dict[str, Any]:
        """The fields of ``model`` that the recipe or the user sets."""
        return self.model.model_dump(exclude_unset=True)

    @property
    def part_size(self) -> int:
        """Samples or rows that a worker works through at once: its share of a step's batch over ``accumulation``."""
        return self.batch_size // self.num_workers // self.accumulation

    def for_workers(self: StageConfigT, num_workers: int) -> StageConfigT:
        """Return the config for the workers that are there: where some were lost, with the nearest batch size that the
        others can share.
        """
        parts = num_workers * self.accumulation
        batch_size = parts * max(1, round(self.batch_size / parts))
        changed = {"num_workers": num_workers, "min_workers": None, "batch_size": batch_size}
        return type(self).model_validate(self.model_dump() | changed)

    def run_name(self, inputs: dict[str, str]) -> str:
        """The stage and a hash of what decides the result: a run with the same name continues, another begins.

        ``inputs`` are hashes of what is read: the corpus or shards, the dVAE.
        """
        return identity.run_name(self.model_dump(mode="json"), inputs)


class DVAETrainConfig(StageConfig, TaughtConfig):
    """Train the discrete VAE on the clips of a corpus."""

    recipes = dvae.RECIPES

    stage: Literal["dvae"] = "dvae"
    model: DVAEConfig = Field(description="Shape of the network; the recipe's where not set.")
    init_from: str | None = Field(
        None, description="URI of a release whose dVAE is where training begins, or voice, the one that comes along."
    )
    shrink: int = Field(
        1,
        ge=1,
        le=8,
        description="Positions of images or videos along each axis that are averaged to one before the network sees "
        "them; `crop` counts positions as they are stored. The diffusion network then brings all of them back.",
    )
    channel_jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the crops of sound whose level, tone, band and noise are changed in training, in what is "
        "coded and in what is to be restored alike.",
    )

    @model_validator(mode="after")
    def _check_modality(self) -> DVAETrainConfig:
        if self.shrink > 1 and self.modality not in CROP_AXES:
            raise ValueError(f"shrink {self.shrink}: for images and videos, this is {self.stage} of {self.modality}")
        if self.channel_jitter and self.modality in CROP_AXES:
            raise ValueError(f"channel_jitter: for sound, this is {self.stage} of {self.modality}")
        return self


class GPTTrainConfig(StageConfig, TokenDataConfig):
    """Train the GPT on token shards."""

    recipes = gpt.RECIPES
    data_field = "tokens"

    stage: Literal["gpt"] = "gpt"
    model: GPTShape = Field(
        description="Shape of the network; the recipe's where not set. With init_from all but dropout is the release's."
    )
    init_from: str | None = Field(
        None,
        description="URI of a release whose GPT is where training begins, or voice, the one that comes along: its "
        "vocabulary, shape and text front end, and, where not set, how it was made to read (`READ_AS`).",
    )
    code_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the input codes of media, not of text, that are replaced at random in training: the "
        "network leans on the rest of the document more and overfits a small corpus later.",
    )
    side_by_side: bool = Field(
        False,
        description="Position text beside the codes of `tokens`, at as many codes a text piece as these shards have on "
        "average, so that a code and the text spoken there are close. model.paces does so with a number of yours.",
    )
    checkpoint_activations: bool = Field(
        False, description="Recompute blocks in the backward pass: less memory, a third more work."
    )

    @classmethod
    def recipe(cls, values: dict[str, Any], size: str) -> dict[str, Any]:
        """The named size's fields and, with ``init_from``, those of `READ_AS` by which that GPT was trained."""
        card = load_card(values["init_from"], "gpt") if values.get("init_from") else None
        if card is None:  # where it is missing, that is said when it is read
            return super().recipe(values, size)
        training = {"layouts": dict.fromkeys(card.get("layouts", []), 1.0)} | card.get("training", {})
        read_as = {name: training[name] for name in READ_AS if training.get(name)}
        return super().recipe(values, size) | read_as

    @model_validator(mode="after")
    def _check_positions(self) -> GPTTrainConfig:
        if self.side_by_side and self.init_from is not None:
            raise ValueError("side_by_side: positions are those of init_from's network; leave it out")
        return self


TOLD = ("latents", "codes", "pieces")
"""Fields by which a diffusion network is told more than the decode."""


class DiffusionTrainConfig(StageConfig, TaughtConfig):
    """Train the diffusion network on the clips of a corpus and what the release's dVAE makes of them."""

    recipes = diffusion.RECIPES

    stage: Literal["diffusion"] = "diffusion"
    latents: bool = Field(
        False,
        description="Condition on the latents of the release's GPT, which knows the text: clips are then encoded "
        "whole, as with `whole_clips` (speech only).",
    )
    codes: bool = Field(
        False, description="Tell the network which code lies where, beside the dVAE's decode of it (clips of speech)."
    )
    pieces: bool = Field(
        False,
        description="Tell the network which phoneme or letter is said at each code, from the times of the clips' "
        "words, by the front end of the release's GPT (speech only): when a text is read aloud, the GPT says it.",
    )
    whole_clips: bool = Field(
        False,
        description="Encode each clip whole, keep it and its prior in memory up to `cache_bytes`, and cut crops from "
        "there: for corpora of hours, whose clips come again and again. The sizes `tiny` and `small` do so for sound "
        "where speed_jitter and readers_per_worker are 0.",
    )
    sampler: SamplerConfig | None = Field(
        None, description="How the release samples the network where nothing else is asked for; written on its card."
    )
    model: DiffusionConfig = Field(description="Shape of the network; the recipe's where not set.")

    @property
    def reads_words(self) -> bool:
        return self.pieces

    @field_validator("model", mode="wrap")
    @classmethod
    def _check_with_axes(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> DiffusionConfig:
        """Check the shape with the axes that the modality has, but do not count them as set."""
        if not isinstance(value, dict) or "num_dims" in value:
            return handler(value)
        shape = handler({"num_dims": CROP_AXES.get(info.data.get("modality", "speech"), 1)} | value)
        return shape.model_construct(_fields_set=shape.model_fields_set - {"num_dims"}, **dict(shape))

    @model_validator(mode="before")
    @classmethod
    def _whole_clips_where_possible(cls, values: Any) -> Any:
        """Leave the recipe's ``whole_clips`` out where other fields do not go with it, or ask for it anyway."""
        if not isinstance(values, dict) or "whole_clips" in values:
            return values
        of_pixels = values.get("modality", "speech") in CROP_AXES
        if of_pixels or any(values.get(name) for name in ("speed_jitter", "readers_per_worker", *TOLD)):
            return values | {"whole_clips": False}
        return values

    @model_validator(mode="after")
    def _check_latents(self) -> DiffusionTrainConfig:
        if self.whole_clips and self.modality in CROP_AXES:
            raise ValueError(f"whole_clips: for diffusion of sound, this is {self.stage} of {self.modality}")
        told = [name for name in TOLD if getattr(self, name)]
        if told and self.modality != "speech":
            raise ValueError(f"{told[0]}: for diffusion of speech alone, this is {self.stage} of {self.modality}")
        if (told or self.whole_clips) and (self.readers_per_worker or self.speed_jitter):
            name = told[0] if told else "whole_clips"
            raise ValueError(
                f"{name} with readers_per_worker {self.readers_per_worker} and speed_jitter {self.speed_jitter}: "
                "clips are encoded whole and as they are; set both to 0"
            )
        return self


class VocoderTrainConfig(StageConfig, SoundCropConfig):
    """Train the vocoder on the clips of a corpus."""

    recipes = vocoder.RECIPES

    stage: Literal["vocoder"] = "vocoder"
    loss_weights: dict[Literal["mel", "stft", "adversarial", "features"], float] = Field(
        default_factory=dict,
        description="Weights of the losses, by default mel 1, stft 1 and adversarial 0; over 0, the last brings "
        "discriminators, and features, the distance between what they see, which weighs as much unless set.",
    )
    periods: tuple[int, ...] = Field(
        (), description="Periods of the discriminators of folded waveforms, beside those of spectrograms. Samples."
    )
    decoded_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of a batch whose mels are what the release's dVAE decodes from the clips' codes, with the "
        "true sound to reach: the vocoder then knows the dVAE's blur.",
    )
    restored: bool = Field(
        False,
        description="Let the release's diffusion network restore those decodes first, as its card says and told all "
        "that it can be: for releases that speak through it. Needs a pack.",
    )
    init_from: str | None = Field(
        None,
        description="URI of a release whose vocoder is where training begins, or voice, the one that comes along; "
        "discriminators begin at nothing.",
    )
    model: VocosConfig = Field(
        description="Shape of the network; where not set the recipe's, or with init_from that of its vocoder."
    )

    @classmethod
    def recipe(cls, values: dict[str, Any], size: str) -> dict[str, Any]:
        """The named size's fields; with ``init_from`` the shape is that of its vocoder."""
        card = load_card(values["init_from"], "vocoder") if values.get("init_from") else None
        found = super().recipe(values, size)
        return found if card is None else found | {"model": card["model"]}  # a missing one is told of when it is read

    @model_validator(mode="after")
    def _restored_are_decoded(self) -> VocoderTrainConfig:
        if self.restored and not self.decoded_share:
            raise ValueError("restored=true with decoded_share 0: no mel is decoded; set decoded_share, such as 0.7")
        return self


TrainConfig = Annotated[
    DVAETrainConfig | GPTTrainConfig | DiffusionTrainConfig | VocoderTrainConfig, Field(discriminator="stage")
]
"""The settings of a run of any stage, as a type to annotate with; `train_config` makes one."""

STAGE_CONFIGS: dict[str, type[StageConfig]] = {
    config.model_fields["stage"].default: config for config in get_args(get_args(TrainConfig)[0])
}
RECIPES = {stage: config.recipes for stage, config in STAGE_CONFIGS.items()}
"""The named sizes of each stage."""


def train_config(**fields: Any) -> TrainConfig:
    """The settings of the stage that ``fields`` name, flat and as read from JSON or YAML, with the recipe filled in.

    Raises ValueError for a value out of range, and for a field that this stage or its network does not have.
    """
    config = STAGE_CONFIGS.get(fields.get("stage", ""))
    if config is None:
        raise ValueError(f"stage {fields.get('stage')!r}: give one of {', '.join(STAGE_CONFIGS)}")
    return cast(TrainConfig, config.model_validate(fields))


def train_fields() -> dict[str, FieldInfo]:
    """The fields of all stages by name, each once."""
    return {name: field for config in reversed(STAGE_CONFIGS.values()) for name, field in config.model_fields.items()}


def with_absolute_paths(config: ConfigT) -> ConfigT:
    """Return a config whose `FOLDERS` are absolute, for workers and jobs that have a working folder of their own."""
    found: dict[str, Any] = {}
    for name in FOLDERS:
        value = getattr(config, name) if name in type(config).model_fields else None
        is_read = name == "init_from" or not isinstance(config, PlacesConfig)
        if value == VOICE and is_read:
            continue  # wherever the package is installed
        if isinstance(value, str):
            found[name] = storage.absolute(value)
        elif value is not None:
            found[name] = tuple(storage.absolute(uri) for uri in value)
    return config.model_copy(update=found)


def _refuse_fields_of_other_stages(stage: str, values: dict[str, Any]) -> None:
    for name in values.keys() - STAGE_CONFIGS[stage].model_fields.keys():
        others = [other for other, config in STAGE_CONFIGS.items() if name in config.model_fields]
        if others:
            raise ValueError(f"{name}: stage {stage} has no such field, it is for {', '.join(others)}")
