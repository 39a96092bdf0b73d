"""Blobs: whole or absent, never outside their folder, swept when no record names them."""

import os
import time
from pathlib import Path

import pytest
import redis

from vaefarm_shared.blobs import BlobStore, FileBlobs, image_name, latent_name
from vaefarm_shared.errors import ConfigurationError, FarmError


def test_a_small_blob_goes_to_redis_with_a_life_and_a_large_one_to_a_file(
    connection: redis.Redis, tmp_path: Path
) -> None:
    store = BlobStore(connection, tmp_path.as_uri(), threshold=10)

    small = store.put(image_name("a", "t-1", 0), b"0123456789", 60)
    large = store.put(image_name("a", "t-1", 1), b"0123456789+", 60)

    assert (small, large) == ("redis:image:a.t-1.0", "file:image:a.t-1.1")
    assert 0 < connection.ttl("vaefarm:image:a.t-1.0") <= 60
    assert [store.get(small, 100), store.get(large, 100)] == [b"0123456789", b"0123456789+"]


@pytest.mark.parametrize("url", ["redis://", "file"])
def test_a_blob_larger_than_its_job_allows_is_not_read(connection: redis.Redis, tmp_path: Path, url: str) -> None:
    store = BlobStore(connection, tmp_path.as_uri() if url == "file" else url, threshold=0)
    reference = store.put("image:a.t.0", b"x" * 1000, 60)

    with pytest.raises(FarmError, match="1000 bytes; its job allows 999"):
        store.get(reference, 999)


def test_a_deleted_blob_is_gone_and_deleting_it_again_is_no_error(connection: redis.Redis, tmp_path: Path) -> None:
    store = BlobStore(connection, tmp_path.as_uri(), threshold=2)
    for data in (b"1", b"123"):
        reference = store.put("image:a.t.0", data, 60)
        store.delete(reference)
        store.delete(reference)
        assert store.get(reference, 10) is None


@pytest.mark.parametrize("name", ["image:../../etc/passwd.0", "image:a", "/etc/passwd", "image:a/b.c", "other:a.b", ""])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(FarmError, match="no blob name"):
        FileBlobs(tmp_path).path(name)


def test_a_reader_without_the_folder_is_told_which_setting_is_missing(connection: redis.Redis) -> None:
    with pytest.raises(ConfigurationError, match="VAEFARM_BLOBS=file:///DIR"):
        BlobStore(connection).get("file:image:a.t.0", 10)


@pytest.mark.parametrize("url", ["s3://bucket", "file://relative/path", "folder", ""])
def test_a_blob_url_that_is_not_offered_is_named(connection: redis.Redis, url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected redis:// or file:///DIR"):
        BlobStore(connection, url)


def test_the_sweeper_removes_old_files_that_no_record_names_and_no_others(
    connection: redis.Redis, tmp_path: Path
) -> None:
    store = BlobStore(connection, tmp_path.as_uri(), threshold=0)
    names = [latent_name("kept", "h"), image_name("gone", "t-1", 0), image_name("young", "t-1", 0)]
    for name in names:
        store.put(name, b"x", 60)
    (tmp_path / "00").mkdir(exist_ok=True)
    part = tmp_path / "00" / ".1234.part"
    part.write_bytes(b"half a picture")
    foreign = tmp_path / "00" / "README"
    foreign.write_text("not ours")
    old = time.time() - 7200
    assert store.files is not None
    for path in (store.files.path(names[0]), store.files.path(names[1]), part, foreign):
        os.utime(path, (old, old))

    removed = store.sweep(lambda references: [reference == f"file:{names[0]}" for reference in references])

    assert removed == 1
    assert [store.get(f"file:{name}", 10) for name in names] == [b"x", None, b"x"]
    assert not part.exists()
    assert foreign.exists()
