"""Speech and sites for the tests of the flows."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

SENTENCES = (
    "The ferry leaves the north harbour at seven, and it does not wait for anyone.",
    "She folded the letter twice and slid it under the lamp.",
    "The river bends twice before it reaches the old mill.",
    "A good map tells you where the road goes, and a better one tells you why.",
    "The last bus up the hill goes at a quarter past ten.",
    "We agreed to meet under the big chestnut tree at noon.",
)


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory, spoken) -> Path:
    """A user's folder: spoken sentences as FLAC, each but the last with its text beside it."""
    folder = tmp_path_factory.mktemp("speech")
    for number, text in enumerate(SENTENCES):
        soundfile.write(folder / f"line-{number}.flac", spoken(text), 24_000)
        if number < len(SENTENCES) - 1:
            (folder / f"line-{number}.txt").write_text(f"{text}\n")
    return folder


@pytest.fixture(scope="session")
def speech(speech_folder):
    """The folder as the demo sees it; the last two are held out, one of them without text."""
    from triforce.flows.examples.demo.speech import Prompt, SpeechDataset
    from triforce.ingest.media.decode import probe_duration_s

    prompts = [
        Prompt(path.stem, path, text, probe_duration_s(path))
        for path, text in zip(sorted(speech_folder.glob("*.flac")), (*SENTENCES[:-1], None), strict=True)
    ]
    return SpeechDataset(prompts[:4], prompts[4:], origin="a test", author="Joe", licence="CC0 1.0")


@pytest.fixture(scope="session")
def sites(tmp_path_factory, speech) -> Path:
    from triforce.flows.examples.demo.sites import lay_out_sites

    folder = tmp_path_factory.mktemp("sites")
    lay_out_sites(speech, folder)
    return folder
