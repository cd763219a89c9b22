"""Images, videos and music of a folder become clips that give back every pixel and sample."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from triforce.ingest.clips.filters import FilterConfig
from triforce.ingest.clips.make_clip import image_clip
from triforce.ingest.clips.refilter import refilter
from triforce.ingest.corpus.records import SAMPLE_RATE_HZ, Clip, Recording, Status
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.corpus.takedown import remove
from triforce.ingest.corpus.verify import verify
from triforce.ingest.local_files import ImportConfig, import_folder
from triforce.ingest.media.encode import encode_flac
from triforce.ingest.media.pixels import clip_pixels, decode_video, encode_video, from_planes


@pytest.fixture
def pixels() -> np.ndarray:
    """A video of 5 frames whose size divides by nothing."""
    return np.random.default_rng(0).integers(0, 256, (5, 37, 50, 3), dtype=np.uint8)


def rows_of(corpus: Corpus) -> list[dict]:
    return corpus.dataset().to_table().to_pylist()


def test_pictures_come_back_pixel_by_pixel(tmp_path, pixels):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(pixels[0]).save(folder / "a.png")
    (folder / "a.txt").write_text("noise,\n seen")
    (folder / "broken.jpg").write_bytes(b"no picture")
    corpus = Corpus(str(tmp_path / "corpus"))
    config = ImportConfig(modality="image", source="album", licence="CC0 1.0")
    assert import_folder(corpus, folder, config) == {"new": 1, "known": 0, "rejected": 1, "clips": 1}
    assert import_folder(corpus, folder, config)["known"] == 2
    Image.fromarray(pixels[1, :, :, 0]).save(folder / "grey.png")
    Image.fromarray(pixels[2]).save(tmp_path / "other.png")
    assert import_folder(corpus, folder, config) == {"new": 1, "known": 2, "rejected": 0, "clips": 1}
    (folder / "grey.png").write_bytes((tmp_path / "other.png").read_bytes())  # of a name that is known
    assert import_folder(corpus, folder, config)["known"] == 3
    by_title = {row["title"]: Clip.from_row(row) for row in rows_of(corpus)}
    album, grey = by_title["a.png"], by_title["grey.png"]
    assert (album.modality, album.text, album.licence) == ("image", "noise, seen", "CC0 1.0")
    assert (grey.text, grey.asr_model) == (None, None)
    assert np.array_equal(from_planes(clip_pixels(album)), pixels[0])
    assert np.array_equal(from_planes(clip_pixels(grey)), pixels[1, :, :, :1].repeat(3, axis=2))
    assert [item.status for item in corpus.recordings("album")].count(Status.REJECTED) == 1
    assert not verify(corpus)
    refilter(corpus, FilterConfig())  # thresholds of speech are none of theirs
    assert {row["drop_reason"] for row in rows_of(corpus)} == {None}


def test_a_file_that_was_taken_down_stays_out(tmp_path, pixels):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(pixels[0]).save(folder / "a.png")
    corpus, config = Corpus(str(tmp_path / "corpus")), ImportConfig(modality="image", source="album")
    import_folder(corpus, folder, config)
    remove(corpus, list(corpus.recordings()))
    assert import_folder(corpus, folder, config) == {"new": 0, "known": 1, "rejected": 0, "clips": 0}
    assert corpus.clip_files() == []


def test_the_corpus_opens_as_images_in_hugging_face_datasets(tmp_path, pixels):
    corpus = Corpus(str(tmp_path / "corpus"))
    recording = Recording("aa", "arrays", "array", "a", "array:a")
    corpus.write_clips(recording, [image_clip(recording, 0, pixels[0]), image_clip(recording, 1, pixels[1, :, :, 0])])
    files = corpus.clip_files()
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert np.array_equal(np.asarray(rows[0]["image"]), pixels[0])
    assert np.array_equal(np.asarray(rows[1]["image"]), pixels[1, :, :, :1].repeat(3, axis=2))


def test_videos_are_cut_into_clips_of_equal_length(tmp_path, pixels):
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "a.mkv").write_bytes(encode_video(pixels, 12.5))
    assert encode_video(pixels, 12.5) == (folder / "a.mkv").read_bytes()
    corpus = Corpus(str(tmp_path / "corpus"))
    import_folder(corpus, folder, ImportConfig(modality="video", source="films", clip_frames=2))
    rows = rows_of(corpus)
    assert [(row["start_sample"], row["end_sample"]) for row in rows] == [(0, 2), (2, 4)]
    assert np.array_equal(np.concatenate([decode_video(row["video"]["bytes"]) for row in rows]), pixels[:4])
    assert clip_pixels(Clip.from_row(rows[0])).shape == (3, 2, 37, 50)
    assert not verify(corpus)


def test_music_is_cut_without_a_gap_and_verify_sees_a_broken_clip(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    waveform = np.random.default_rng(1).integers(-9000, 9000, 5 * SAMPLE_RATE_HZ // 2, dtype=np.int16)
    soundfile.write(folder / "a.wav", waveform, SAMPLE_RATE_HZ)
    corpus = Corpus(str(tmp_path / "corpus"))
    import_folder(corpus, folder, ImportConfig(modality="music", source="moh", clip_s=1.0))
    rows = rows_of(corpus)
    assert [row["end_sample"] - row["start_sample"] for row in rows] == [24_000, 24_000, 12_000]
    assert rows[1]["audio"]["bytes"] == encode_flac(waveform[24_000:48_000])
    assert not verify(corpus)
    recording = next(corpus.recordings())
    corpus.write_clips(recording, [replace(Clip.from_row(rows[0]), end_sample=23_999)])
    assert "24000 samples" in verify(corpus)[0].detail


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no image here; files end in"):
        import_folder(Corpus(str(tmp_path)), tmp_path, ImportConfig(modality="image", source="album"))
