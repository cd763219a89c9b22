"""Documents from one or several shard sets, and the batches that training gets of them."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from triforce.ingest import storage
from triforce.models.text import TextTokenizer
from triforce.tokenize.shards import write_shard
from triforce.tokenize.token_sample import TokenSample
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.data.tokens.documents import overlap
from triforce.train.tasks.gpt import GPTTask
from triforce.train.tasks.gpt_loss import speech_vocabulary, token_losses, with_random_codes
from triforce.train.trainer.prefetch import Prefetcher

WORDS = ("one", "two", "three", "four")
SECOND = 24_000


def write_set(folder: Path, modality: str, samples: list[TokenSample], num_codes: int, per_shard: int) -> str:
    tokenizer = TextTokenizer.train(WORDS, 256)
    shards = []
    for index, start in enumerate(range(0, len(samples), per_shard)):
        part = samples[start : start + per_shard]
        write_shard(str(folder / f"shard-{index:06d}.tar"), part, {"num_clips": len(part)})
        counts = {"num_codes": sum(s.codes.size for s in part), "num_text": sum(s.text.size for s in part)}
        shards.append({"shard": f"shard-{index:06d}.tar", "num_clips": len(part)} | counts)
    meta = {"modality": modality, "num_codes": num_codes, "dvae_hash": modality}
    storage.write_bytes(folder / "meta.json", json.dumps(meta).encode())
    storage.write_bytes(folder / "index.json", json.dumps({"shards": shards, "dvae_hash": modality}).encode())
    storage.write_bytes(folder / "tokenizer.json", tokenizer.to_json().encode())
    return str(folder)


def speech(number: int, start_s: float, word: str, speaker: str, recording: str) -> TokenSample:
    """A second of speech whose codes all are ``number``."""
    codes = np.full(8, number, np.uint16)
    text = TextTokenizer.train(WORDS, 256).encode(word).astype(np.uint16)
    metadata = {"text": word, "speaker": speaker, "duration_s": 1.0}
    return TokenSample(f"{recording}-{int(start_s * SECOND)}", codes, text, metadata)


def image(number: int, word: str) -> TokenSample:
    codes, metadata = np.full((2, 2), number, np.uint16), {"text": word, "duration_s": 1.0}
    return TokenSample(f"image-{number}", codes, np.zeros(0, np.uint16), metadata)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple[str, str]:
    """Forty clips of two speakers, every other one overlapping the one before, and images of the same words."""
    folder = tmp_path_factory.mktemp("sets")
    clips = [
        speech(n, n // 2 + (n % 2) * 0.5 + (n // 2) * 0.5, WORDS[n % 4], f"speaker-{n // 20}", f"recording-{n // 20}")
        for n in range(40)
    ]
    images = [image(n, WORDS[n % 4]) for n in range(24)]
    return (
        write_set(folder / "speech", "speech", clips, 40, 7),
        write_set(folder / "image", "image", images, 24, 24),
    )


def make_task(sets: tuple[str, ...], layouts: dict[str, float], place: Place | None = None, **settings) -> GPTTask:
    config = train_config(
        stage="gpt",
        release="r",
        runs="x",
        tokens=sets[0],
        more_tokens=sets[1:],
        join_on="text",
        layouts=layouts,
        model={"num_layers": 2, "width": 32, "num_heads": 2},
        **({"batch_size": 2, "context": 64, "validation_share": 0.2, "eval_clips": 4} | settings),
    )
    torch.manual_seed(0)
    return GPTTask(config, place or Place(0, 1), torch.device("cpu"))


def documents_of(task: GPTTask, count: int) -> list[list]:
    found = [task.documents.segments(position) for position in range(count)]
    return [segments for segments in found if segments]


def test_media_meet_by_what_joins_them_in_every_order(sets):
    layouts = {"text>image": 1, "image+speech>text": 2, "speech>image": 1}
    task = make_task(sets, layouts)
    seen: dict[tuple, int] = {}
    for segments in documents_of(task, 640):
        seen[tuple(s.modality for s in segments)] = seen.get(tuple(s.modality for s in segments), 0) + 1
        words = {task.tokenizer.decode(s.codes) if s.modality == "text" else WORDS[s.codes[0] % 4] for s in segments}
        assert len(words) == 1, segments  # an image of "two" never meets speech of "three"
    assert set(seen) == {("text", "image"), ("image", "speech", "text"), ("speech", "image")}
    total = sum(seen.values())
    for layout, weight in zip(seen, [{2: 1, 3: 2}[len(layout)] for layout in seen], strict=True):
        assert seen[layout] / total == pytest.approx(weight / 4, abs=0.07)
    assert task.model.config.vocabulary.modality("image").grid == (2, 2)
    with pytest.raises(ValueError, match="no shard set holds image"):
        make_task(sets[:1], layouts)


def test_validation_lends_nothing_to_training(sets):
    task = make_task(sets, {"speech>image": 1})
    used = {int(s.codes[0]) for segments in documents_of(task, 640) for s in segments if s.modality == "image"}
    held = {
        int(row[i + 1]) - task.model.config.vocabulary.offset("image")
        for batch in task.evaluation
        for row in batch.ids.tolist()
        for i, token in enumerate(row)
        if token == task.model.config.vocabulary.begin("image")
    }
    assert used
    assert held
    assert not used & held


def test_a_voice_is_the_speakers_and_never_of_the_same_moment(sets):
    task = make_task(sets[:1], {"voice+text>speech": 1})
    prompted = [segments for segments in documents_of(task, 400) if segments[0].modality == "voice"]
    assert len(prompted) > 100
    for voice, _, target in prompted:
        ours, theirs = int(target.codes[0]), int(voice.codes[0])
        assert ours // 20 == theirs // 20  # the speaker
        assert abs(ours - theirs) > 1 or (ours // 2 != theirs // 2)
    a, b = speech(0, 0, "one", "s", "r"), speech(1, 0.5, "two", "s", "r")
    assert overlap(a, b)
    assert overlap(a, a)
    assert not overlap(a, speech(2, 1.0, "two", "s", "r"))
    assert not overlap(a, speech(1, 0.5, "two", "s", "other"))


@pytest.mark.parametrize("side_by_side", [False, True])
def test_packed_loss_is_the_loss_of_each_document_alone(sets, side_by_side):
    task = make_task(sets, {"text>speech": 1, "speech+text>image": 1}, side_by_side=side_by_side)
    task.model.eval()
    batch = task.next_batch()
    losses, weights = token_losses(task.model, batch)
    alone = []
    for row in range(len(batch.ids)):
        for number in range(1, int(batch.documents[row].max()) + 1):
            ids = batch.ids[row][batch.documents[row] == number]
            logits = task.model.logits(task.model(ids[None, :-1]))[0]
            alone.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none"))
            assert int(ids[-1]) == 1  # whole, to the end of the document
    torch.testing.assert_close(losses, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert len(weights) == len(losses)
    task.close()


def test_text_is_paced_as_the_shards_are(sets):
    tokenizer = TextTokenizer.train(WORDS, 256)
    pieces = sum(len(tokenizer.encode(WORDS[n % 4])) for n in range(40))
    layouts = {"text>speech": 1.0}
    assert make_task(sets[:1], layouts, side_by_side=True).model.config.paces == {"text": 40 * 8 / pieces}
    assert make_task(sets[:1], layouts).model.config.paces == {}
    with pytest.raises(ValueError, match="image shards have no text"):
        make_task(sets[1:], {"image": 1.0}, side_by_side=True)
    with pytest.raises(ValueError, match="positions are those of init_from"):
        make_task(sets[:1], layouts, side_by_side=True, init_from="r")


def rows_of(task: GPTTask, count: int) -> list[torch.Tensor]:
    batches = [task.next_batch().ids for _ in range(count)]
    task.close()
    return batches


def test_codes_are_shown_wrong_and_text_and_marks_never():
    vocabulary = speech_vocabulary(text_size=50, num_codes=100)
    ids = torch.arange(vocabulary.size).repeat(50, 1)
    shown = with_random_codes(ids, vocabulary, 0.3)
    first = vocabulary.offset("speech")
    codes = (ids >= first) & (ids < first + 100)
    assert torch.equal(shown[~codes], ids[~codes])
    assert shown[codes].min() >= first
    assert shown[codes].max() < first + 100
    # One in a hundred is drawn as it was.
    assert 0.25 < float((shown != ids)[codes].float().mean()) < 0.35


def test_reading_ahead_changes_no_batch_and_resumes_at_the_very_document(sets):
    layouts = {"text>speech": 1, "speech>text": 1}
    plain = rows_of(make_task(sets[:1], layouts, prefetch=0), 12)
    ahead = rows_of(make_task(sets[:1], layouts, prefetch=4), 12)
    assert all(torch.equal(a, b) for a, b in zip(plain, ahead, strict=True))
    first = make_task(sets[:1], layouts, prefetch=4)
    for _ in range(5):
        first.next_batch()
    state = first.place.state_dict()  # what was read ahead is not counted
    first.close()
    place = Place(0, 1)
    place.resume([state])
    rest = rows_of(make_task(sets[:1], layouts, place, prefetch=4), 7)
    assert all(torch.equal(a, b) for a, b in zip(plain[5:], rest, strict=True))


def test_places_of_many_workers_resume_on_any_number():
    places = [{"taken": 7, "num_workers": 2}, {"taken": 9, "num_workers": 2}]
    second = Place(1, 2)
    second.resume(places)
    assert second.taken == 9
    alone = Place(0, 1)
    alone.resume(places)
    assert alone.next() == 14  # the first that the slower one has not taken


def test_the_reader_keeps_ahead_and_passes_its_errors_on():
    made, release = [], threading.Event()

    def make() -> int:
        made.append(len(made))
        if len(made) == 4:
            release.set()
        if len(made) > 4:
            raise ValueError("shard 5 is broken")
        return made[-1]

    reader = Prefetcher(make, depth=2)
    assert reader.next() == 0
    assert release.wait(10)  # nobody asked for the others
    assert [reader.next() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ValueError, match="shard 5"):
        reader.next()
    reader.close()


def test_a_shard_is_opened_when_it_is_needed_and_counted_by_the_index(sets, tmp_path):
    task = make_task(sets[:1], {"text>speech": 1})
    assert task.store.group_sizes == [7, 7, 7, 7, 7, 5]
    assert len(task.store) == 40
    broken = write_set(tmp_path, "speech", [speech(n, n, "one", "s", "r") for n in range(6)], 40, 3)
    write_shard(f"{broken}/shard-000001.tar", [speech(1, 1, "one", "s", "r")], {"num_clips": 1})
    with pytest.raises(ValueError, match=r"holds 1 samples, index\.json says 3"):
        documents_of(make_task((broken,), {"text>speech": 1}, validation_share=0.0), 6)


def test_documents_that_are_too_long_are_counted_and_logged(sets, caplog):
    task = make_task(sets[:1], {"text>speech": 1, "speech>text": 1}, context=64, prefetch=0)
    task.next_batch()
    task.close()
    assert not caplog.records
    cut = [len(task.documents.tokens(segments)[0]) for segments in documents_of(task, 40)]
    short = make_task(sets[:1], {"text>speech": 1, "speech>text": 1}, context=32, prefetch=0, voice_codes=4)
    short.packer.context = min(cut)
    short.next_batch()
    short.close()
    assert short.packer.num_too_long > 0
    assert f"{short.packer.num_too_long} of {short.packer.num_read} documents" in caplog.text
