"""How a corpus's clips are transcribed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TranscribeConfig(BaseModel):
    """Speech recognition."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(
        "tiny.en", min_length=1, description="Whisper model: a name, a hub id, or a folder of CTranslate2 weights."
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the model runs.")
    compute_type: str = Field(
        "default", description="CTranslate2 type; 'default' is int8 on the CPU, float16 on a GPU."
    )
    language: str | None = Field(
        None,
        description="ISO 639-1 code of the only language that is transcribed; null: all that the model knows.",
    )
    language_model: str | None = Field(
        "base",
        min_length=1,
        description="Multilingual Whisper model that tells the language of each clip before it is transcribed; null: "
        "the model itself, and where it knows only English, all speech is taken for that.",
    )
    other_languages: bool = Field(
        True,
        description="Whether a clip in a language that `model` does not know is transcribed by `language_model`; if "
        "not, it has no text.",
    )
    beam_size: int = Field(5, ge=1, le=20, description="Hypotheses kept while decoding.")
    batch_size: int = Field(8, ge=1, le=128, description="Windows of 30 s decoded together.")
    cpu_threads: int = Field(1, ge=0, description="Threads of one transcriber on the CPU; 0: CTranslate2's choice.")
    pack: bool = Field(True, description="Whether neighbouring clips share a window.")
    window_s: float = Field(
        28.0,
        gt=0,
        le=30,
        description="Clips are packed into a window up to this length, and no more is encoded. 15 is quicker by a "
        "tenth, but of speech in two voices it makes a third more word errors, whole phrases among them.",
    )
    pack_gap_s: float = Field(0.4, ge=0.0, le=2.0, description="Silence between clips that share a window, seconds.")
    seed: int = Field(0, ge=0, description="Seed of the sampling at temperatures over zero.")
    max_compression_ratio: float = Field(2.4, gt=0, description="Text more repetitive than this is recognised again.")
    min_avg_logprob: float = Field(-1.0, lt=0, description="Text less probable than this is recognised again.")
    max_no_speech_prob: float = Field(
        0.6, gt=0, le=1, description="Clips more probably without speech are transcribed again."
    )
    min_language_probability: float = Field(
        0.8, ge=0, le=1, description="A clip whose first seconds are less probably in any language is heard whole."
    )
    min_chars_per_s: float = Field(
        5.0, ge=0, description="Clips with less text are transcribed again, in letters: batches drop speech."
    )
    max_chars_per_s: float = Field(25.0, gt=0, description="Clips with more text are transcribed again.")
