"""A GPT learns to read sentences in memory, and on a machine that has few packages."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from triforce.models.gpt import GPTShape
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.reading.sampling import read_aloud
from triforce.train.data.order import Place
from triforce.train.data.tokens.reading_corpus import ReadingConfig, ReadingCorpus, ReadingTexts
from triforce.train.tasks.gpt_loss import speech_vocabulary
from triforce.train.tasks.reading import ReadingTask
from triforce.train.trainer.config import LoopConfig
from triforce.train.trainer.loop import Trainer

READER = PhonemeTokenizer()
WORDS = ("hello", "world", "dear", "zebra", "apple", "night", "xyzzy")
SHAPE = GPTShape(num_layers=3, width=64, num_heads=2, pointer=True)


def sound_of_words() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {word: generator.integers(0, 64, 3 + len(word)) for word in WORDS}


def make_corpus(num_sentences: int = 1000) -> ReadingCorpus:
    """Sentences of two to five words, each of which always has the same codes."""
    generator, sounds = np.random.default_rng(1), sound_of_words()
    texts, codes = [], []
    for _ in range(num_sentences):
        chosen = [WORDS[i] for i in generator.integers(0, len(WORDS), generator.integers(2, 6))]
        ends = np.cumsum([2, *(len(sounds[word]) for word in chosen)]) / ReadingConfig().codes_per_s
        texts.append((" ".join(chosen), list(zip(chosen, ends, ends[1:], strict=False))))
        codes.append(np.concatenate([[1, 1], *(sounds[word] for word in chosen)]))
    vocabulary = speech_vocabulary(READER.size, 64, reading=True)
    return ReadingCorpus(codes, ReadingTexts.make(READER, texts), vocabulary, ReadingConfig(text_dropout=0.1))


def make_task(place: Place | None = None, prefetch: int = 4) -> ReadingTask:
    corpus = make_corpus()
    torch.manual_seed(0)
    rows = np.arange(1000)
    return ReadingTask(
        corpus.subset(rows[50:]),
        corpus.subset(rows[:50]),
        SHAPE,
        context=256,
        num_rows=4,
        place=place,
        prefetch=prefetch,
    )


def test_it_reads_sentences_that_it_never_saw():
    task = make_task()
    optimizer = {"learning_rate": 3e-3, "warmup_steps": 20, "ema_decay": 0.9}
    trainer = Trainer(task, LoopConfig(max_steps=120, eval_every=120, precision="float32", optimizer=optimizer))
    trainer.fit(lambda *_: None, lambda _: None)
    assert task.card({"dvae": "abc"}) == {"dvae_hash": "abc", "layouts": ["text>reading"]}
    metrics = trainer.state.history[-1]
    assert metrics["eval/code_bits"] < 0.5
    assert metrics["eval/onward_bits"] < 0.5
    texts, sounds = ("zebra hello xyzzy night", "apple apple apple"), sound_of_words()
    pieces = [READER.split(READER.encode(text)) for text in texts]
    for guidance in (1.0, 1.5):
        drawn = read_aloud(trainer.ema, pieces, SamplingConfig(temperature=0.5, guidance=guidance))
        for text, (candidate,) in zip(texts, drawn, strict=True):
            assert candidate.codes.tolist() == np.concatenate([[1, 1], *(sounds[w] for w in text.split())]).tolist()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_share_rows_and_go_on_where_they_were(num_workers):
    places = [Place(rank, num_workers) for rank in range(num_workers)]
    tasks = [make_task(place, prefetch=2 * rank) for rank, place in enumerate(places)]
    batches = [[task.next_batch() for _ in range(3)] for task in tasks]
    rows = torch.stack([batch.ids for of_worker in batches for batch in of_worker])
    stream = tasks[0].rows
    expected = [
        [stream.batch(rank + 4 * num_workers * step, 4, num_workers).ids for step in range(3)]
        for rank in range(num_workers)
    ]
    torch.testing.assert_close(rows, torch.stack([ids for of_worker in expected for ids in of_worker]))
    resumed = Place(num_workers - 1, num_workers)
    resumed.resume([place.state_dict() for place in places])
    task = make_task(resumed)
    torch.testing.assert_close(task.next_batch(), tasks[-1].next_batch())
    for each in (*tasks, task):
        each.close()


def test_it_needs_few_packages():
    """So that a borrowed GPU, on which nothing can be installed, can train."""
    code = (
        "import sys\n"
        "import triforce.train.tasks.reading, triforce.train.trainer.loop, triforce.models.reading.sampling\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    loaded = set(eval(done.stdout))
    heavy = {"ray", "prefect", "pyarrow", "webdataset", "soundfile", "soxr", "av", "tensorboardX", "unicode_rbnf"}
    assert not loaded & heavy
