"""Files by URI."""

import fsspec
import pytest

from triforce.ingest import storage


def test_what_others_wrote_meanwhile_is_seen():
    """A job on another machine writes where this process has looked before: a remembered listing would hide it."""
    fs, _ = storage.resolve("memory://bucket/folder")
    fs.dircache["bucket/folder"] = []
    with pytest.raises(KeyError):
        fs.dircache["bucket/folder"]


def test_a_local_folder_becomes_absolute_and_a_stores_address_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("data/corpus") == str(tmp_path / "data/corpus")
    assert storage.absolute("s3://bucket/corpus") == "s3://bucket/corpus"


@pytest.mark.parametrize("path", ["/", "/a", "/a/b/", "/a//b", "/a/source=x y/ü~.parquet", "/a/../b", "/a/#?", "/a:b"])
def test_a_local_path_is_resolved_as_fsspec_does(path):
    fs, found = storage.resolve(path)
    other, expected = fsspec.core.url_to_fs(path, use_listings_cache=False)
    assert (found, fs) == (expected, other)
