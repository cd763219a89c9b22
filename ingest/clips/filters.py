"""The one place that turns a clip's raw scores into the reason why it is dropped from training, or into none."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from triforce.ingest.asr.writing import plain_words, repeatable_units, spaced_words, spoken_letters
from triforce.ingest.corpus.records import PUBLISHED, Clip, DropReason

PHANTOM_PHRASES = {
    "en": (
        "thank you for watching",
        "thanks for watching",
        "thank you so much for watching",
        "please subscribe",
        "subscribe to my channel",
        "like and subscribe",
        "subtitles by the amara org community",
        "see you in the next video",
        "i'll see you next time",
        "transcription by castingwords",
    ),
    "de": (
        "Vielen Dank fürs Zuschauen",
        "Untertitel der Amara.org-Community",
        "Untertitel im Auftrag des ZDF für funk, 2017",
        "Untertitelung des ZDF, 2020",
    ),
    "es": (
        "¡Gracias por ver el vídeo!",
        "Gracias por ver el video",
        "Subtítulos realizados por la comunidad de Amara.org",
    ),
    "fr": (
        "Sous-titres réalisés par la communauté d'Amara.org",
        "Sous-titrage ST' 501",
        "Merci d'avoir regardé cette vidéo",
    ),
    "it": ("Sottotitoli creati dalla comunità Amara.org", "Sottotitoli e revisione a cura di QTSS"),
    "ja": ("ご視聴ありがとうございました",),
    "ko": ("시청해주셔서 감사합니다",),
    "pt": ("Legendas pela comunidade Amara.org", "Obrigado por assistir"),
    "ru": ("Продолжение следует...", "Субтитры сделал DimaTorzok", "Спасибо за просмотр"),
    "zh": ("字幕由Amara.org社区提供", "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目", "謝謝觀看", "谢谢观看"),
}
"""What Whisper writes over music and silence, by language: the ends of the videos it was trained on. A clip of nothing
else is dropped."""
PLAIN_PHANTOMS = frozenset(" ".join(plain_words(phrase)) for phrases in PHANTOM_PHRASES.values() for phrase in phrases)
"""Their words without punctuation, which a text is compared with."""

SHORT_WORDED = frozenset({"en", "es", "fr", "it", "pt", "ca", "gl", "ro"})
"""Languages that write compounds apart: no word of theirs is as long as `FilterConfig.max_word_chars`. All others may
glue words together or endings to them, as German, Finnish and Turkish do."""

TEXT_SCOPES = {
    DropReason.NO_TEXT: "any script",
    DropReason.WRONG_LANGUAGE: "the languages that the recogniser and its judge know",
    DropReason.REPETITION: "any script; without spaces, runs of three characters count as words",
    DropReason.LONG_WORD: "scripts with spaces; a higher limit where words are glued together",
    DropReason.PHANTOM_PHRASE: "the languages of `PHANTOM_PHRASES`",
    DropReason.LOW_CONFIDENCE: "any language that the recogniser knows",
    DropReason.DISAGREEMENT: "any script, where a transcript came with the recording",
    DropReason.SPEAKING_RATE: "any script; characters count as the letters of an alphabet that they stand for",
}
"""For which scripts or languages each filter on text holds. In any other text it drops nothing."""

MIN_UNITS = 10
"""Words from which on the share of different ones tells something. Assumed."""
EDGE_WORD_S = 0.05
"""Distance from a clip's end up to which a word touches it, seconds: two and a half frames of Whisper's encoder.
Assumed."""


class FilterConfig(BaseModel):
    """Thresholds on a clip's scores. A score that is missing drops no clip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_s: float = Field(3.0, ge=0, description="Shortest clip, seconds.")
    max_s: float = Field(20.0, gt=0, le=30, description="Longest clip, seconds.")
    max_no_speech_prob: float = Field(
        0.6, ge=0, le=1, description="Above it, and under min_avg_logprob, there is no speech."
    )
    min_avg_logprob: float = Field(-1.0, le=0, description="Least mean log probability of the tokens.")
    min_agreement: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Least agreement with the published transcript, by letters, of clips whose recording has one.",
    )
    max_compression_ratio: float = Field(2.4, gt=0, description="Largest ratio of the text to itself compressed.")
    min_unique_word_share: float = Field(
        0.4, ge=0, le=1, description="Least share of different words, of ten words or more."
    )
    max_word_chars: int = Field(
        25,
        ge=1,
        description="Length from which a word counts as a transcription error, characters; English and the like.",
    )
    max_compound_chars: int = Field(
        70, ge=1, description="The same in languages that glue words together, and where the language is not known."
    )
    min_chars_per_s: float = Field(5.0, ge=0, description="Slowest speech, letters of an alphabet a second.")
    max_chars_per_s: float = Field(21.0, gt=0, description="Fastest speech, letters of an alphabet a second.")
    max_rate_iqr: float | None = Field(
        None,
        gt=0,
        description="Refilter only: quartile ranges that a rate may lie outside its source's quartiles; 1.5 is usual.",
    )
    languages: tuple[str, ...] | None = Field(None, description="Languages to keep, ISO 639-1; null: all.")
    min_language_probability: float = Field(0.8, ge=0, le=1, description="Least probability of the clip's language.")
    max_clipped_share: float = Field(0.001, ge=0, le=1, description="Largest share of samples at full scale.")
    min_snr_db: float = Field(10.0, description="Least signal to noise, dB.")
    min_bandwidth_hz: float = Field(0.0, ge=0, description="Least bandwidth, Hz; 9000 keeps full-band speech only.")
    min_modulation_db: float = Field(
        3.5, ge=0, description="Least standard deviation of the level, dB; a clip under it is music or noise."
    )
    max_edge_db: float = Field(
        -6.0,
        description="Loudest end of a clip against its loud frames, dB: over it, with a word there, the word is cut.",
    )
    min_voice_similarity: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Least similarity of the voices before and after any point of a clip: under it, two people speak.",
    )
    max_overlap_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Largest share of voiced frames with a second pitch; 0.12 drops most clips that two speak at once.",
    )
    min_dnsmos: float = Field(0.0, ge=0, le=5, description="Least overall DNSMOS, 1 to 5; 3 is Emilia's limit.")
    min_rms_dbfs: float = Field(-45.0, le=0, description="Quietest clip, dB of full scale.")


def drop_reason(clip: Clip, config: FilterConfig) -> DropReason | None:
    """Return why the clip is dropped: the first reason that holds, from the most to the least certain; None: keep it.

    The thresholds are about speech: a clip of another modality is kept.
    """
    if clip.modality not in (None, "speech"):
        return None
    for reason, holds in _CHECKS:
        if holds(clip, config):
            return reason
    return None


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _is_no_speech(clip: Clip, config: FilterConfig) -> bool:
    return _above(clip.no_speech_prob, config.max_no_speech_prob) and _below(clip.avg_logprob, config.min_avg_logprob)


def _is_repetition(clip: Clip, config: FilterConfig) -> bool:
    words = repeatable_units(clip.text)
    repeats = len(words) >= MIN_UNITS and len(set(words)) / len(words) <= config.min_unique_word_share
    return repeats or _above(clip.compression_ratio, config.max_compression_ratio)


def _is_wrong_language(clip: Clip, config: FilterConfig) -> bool:
    is_other = config.languages is not None and clip.language not in (None, *config.languages)
    is_unwritten = clip.asr_model is not None and clip.text is None
    is_confirmed = clip.text_source == PUBLISHED  # words of another language would not have agreed
    is_doubtful = not is_confirmed and _below(clip.language_probability, config.min_language_probability)
    return is_other or is_unwritten or is_doubtful


def _is_phantom(clip: Clip, config: FilterConfig) -> bool:
    return is_phantom_phrase(clip.text)


def is_phantom_phrase(text: str | None) -> bool:
    """Return whether a text is nothing but what Whisper writes over music and silence."""
    return " ".join(plain_words(text)) in PLAIN_PHANTOMS


def _has_long_word(clip: Clip, config: FilterConfig) -> bool:
    limit = config.max_word_chars if clip.language in SHORT_WORDED else config.max_compound_chars
    return max(map(len, spaced_words(clip.text)), default=0) >= limit


def _is_cut_in_word(clip: Clip, config: FilterConfig) -> bool:
    """Both the level and the words must say so: word times alone are off by more than a syllable."""
    words = clip.words or ()
    if clip.cut_blind:
        return True
    touches = bool(words) and (
        words[0].start_s < EDGE_WORD_S or words[-1].end_s > (clip.duration_s or 0.0) - EDGE_WORD_S
    )
    return touches and _above(clip.edge_db, config.max_edge_db)


def _has_wrong_rate(clip: Clip, config: FilterConfig) -> bool:
    rate = letters_per_s(clip)
    return _below(rate, config.min_chars_per_s) or _above(rate, config.max_chars_per_s)


def letters_per_s(clip: Clip) -> float | None:
    """Return how fast a clip is spoken, in letters of an alphabet a second, whatever script its text is in."""
    if clip.chars_per_s is None or not clip.text:
        return clip.chars_per_s
    return clip.chars_per_s * spoken_letters(clip.text) / len(clip.text)


_CHECKS = (
    (DropReason.NO_SPEECH, _is_no_speech),
    (DropReason.NO_TEXT, lambda clip, _: clip.text is not None and not plain_words(clip.text)),
    (DropReason.TOO_SHORT, lambda clip, config: _below(clip.duration_s, config.min_s)),
    (DropReason.TOO_LONG, lambda clip, config: _above(clip.duration_s, config.max_s + 1e-3)),
    (DropReason.CUT_WORD, _is_cut_in_word),
    (DropReason.WRONG_LANGUAGE, _is_wrong_language),
    (DropReason.REPETITION, _is_repetition),
    (DropReason.LONG_WORD, _has_long_word),
    (DropReason.PHANTOM_PHRASE, _is_phantom),
    (DropReason.LOW_CONFIDENCE, lambda clip, config: _below(clip.avg_logprob, config.min_avg_logprob)),
    (DropReason.DISAGREEMENT, lambda clip, config: _below(clip.agreement, config.min_agreement)),
    (DropReason.SPEAKING_RATE, _has_wrong_rate),
    (DropReason.CLIPPED, lambda clip, config: _above(clip.clipped_share, config.max_clipped_share)),
    (DropReason.QUIET, lambda clip, config: _below(clip.rms_dbfs, config.min_rms_dbfs)),
    (DropReason.MUSIC, lambda clip, config: _below(clip.modulation_db, config.min_modulation_db)),
    (DropReason.NOISY, lambda clip, config: _below(clip.snr_db, config.min_snr_db)),
    (
        DropReason.MANY_SPEAKERS,
        lambda clip, config: (
            _below(clip.voice_similarity, config.min_voice_similarity)
            or _above(clip.overlap_share, config.max_overlap_share)
        ),
    ),
    (DropReason.LOW_DNSMOS, lambda clip, config: _below(clip.dnsmos_ovrl, config.min_dnsmos)),
    (DropReason.NARROW_BAND, lambda clip, config: _below(clip.bandwidth_hz, config.min_bandwidth_hz)),
)
