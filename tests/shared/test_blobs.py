"""Blobs: whole or absent, never outside of their folder or prefix, swept when no record names them."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from tests.conftest import eventually
from tests.held_store import HeldStore
from tests.s3_server import SECRET_KEY, BucketStore, FolderStore

from vaefarm_shared import s3_blobs
from vaefarm_shared.blob_names import image_name, latent_name
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.errors import ConfigurationError, FarmError, InvalidStore, StoreAway
from vaefarm_shared.file_blobs import FileBlobs
from vaefarm_shared.s3_blobs import MOST_REQUESTS, S3Blobs
from vaefarm_shared.settings import Settings

Outside = FolderStore | BucketStore


def test_a_small_blob_goes_to_redis_with_a_life_and_a_large_one_outside(
    connection: redis.Redis, outside: Outside
) -> None:
    store = BlobStore(connection, outside.url, threshold=10)

    small = store.put(image_name("a", "t-1", 0), b"0123456789", 60)
    large = store.put(image_name("a", "t-1", 1), b"0123456789+", 60)

    assert (small, large) == ("redis:image:a.t-1.0", f"{outside.scheme}:image:a.t-1.1")
    assert 0 < connection.ttl("vaefarm:image:a.t-1.0") <= 60
    assert [store.get(small, 100), store.get(large, 100)] == [b"0123456789", b"0123456789+"]
    assert list(outside.contents().values()) == [b"0123456789+"]
    store.close()


def test_a_blob_larger_than_its_job_allows_is_not_read(connection: redis.Redis, outside: Outside) -> None:
    for url in ("redis://", outside.url):
        store = BlobStore(connection, url, threshold=0)
        reference = store.put("image:a.t.0", b"x" * 1000, 60)

        with pytest.raises(FarmError, match="1000 bytes; its job allows 999"):
            store.get(reference, 999)
        store.close()


def test_a_deleted_blob_is_gone_and_deleting_it_again_is_no_error(connection: redis.Redis, outside: Outside) -> None:
    store = BlobStore(connection, outside.url, threshold=2)
    for data in (b"1", b"123"):
        reference = store.put("image:a.t.0", data, 60)
        store.delete(reference)
        store.delete(reference)
        assert store.get(reference, 10) is None
    store.close()


@pytest.mark.parametrize("name", ["image:../../etc/passwd.0", "image:a", "/etc/passwd", "image:a/b.c", "other:a.b", ""])
def test_no_name_leads_out_of_the_folder_or_the_prefix(tmp_path: Path, bucket: BucketStore, name: str) -> None:
    for blobs in (FileBlobs(tmp_path), S3Blobs(bucket.bucket, "farm/")):
        for ask in (
            lambda blobs=blobs: blobs.get(name, 10),
            lambda blobs=blobs: blobs.put(name, b"x"),
            lambda blobs=blobs: blobs.delete_many([name]),
        ):
            with pytest.raises(FarmError, match="no blob name"):
                ask()
    assert bucket.contents() == {}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("file:image:a.t.0", "VAEFARM_STORE=file:///DIR"), ("s3:image:a.t.0", "VAEFARM_STORE=s3://BUCKET/PREFIX")],
)
def test_a_reader_that_knows_no_such_store_is_told_which_setting_is_missing(
    connection: redis.Redis, reference: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        BlobStore(connection).get(reference, 10)
    (found,) = BlobStore(connection).get_many([(reference, 10)])
    assert isinstance(found, ConfigurationError)


@pytest.mark.parametrize(
    "url",
    ["gcs://bucket", "file://relative/path", "folder", "", "s3://", "s3://Bucket", "s3://bucket/../up", "s3://b/x y"],
)
def test_a_store_that_is_not_offered_is_named(connection: redis.Redis, url: str) -> None:
    expected = f"VAEFARM_STORE={url!r}: expected redis://, file:///DIR or s3://BUCKET/PREFIX"
    for ask in (lambda: BlobStore(connection, url), lambda: Settings.from_env(store=url)):
        with pytest.raises(InvalidStore) as caught:
            ask()
        assert str(caught.value) == expected


@pytest.mark.parametrize(
    "url", ["s3://AKIA:hunter2@bucket/farm", "s3://bucket/farm?key=hunter2", "s3://bucket#hunter2", "gcs://x:hunter2@b"]
)
def test_a_store_with_a_password_is_refused_without_a_word_of_it(connection: redis.Redis, url: str) -> None:
    for ask in (lambda: BlobStore(connection, url), lambda: Settings.from_env(store=url)):
        with pytest.raises(InvalidStore) as caught:
            ask()
        assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


def test_a_redis_with_a_password_as_the_store_is_kept_without_it() -> None:
    assert "hunter2" not in repr(Settings.from_env(store="redis://user:hunter2@host:6379/1"))


def test_the_settings_former_names_count_and_the_present_ones_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEFARM_BLOBS", "file:///then")
    monkeypatch.setenv("VAEFARM_BLOB_THRESHOLD", "7")
    assert (Settings.from_env().store, Settings.from_env().store_threshold) == ("file:///then", 7)
    monkeypatch.setenv("VAEFARM_STORE", "file:///now")
    monkeypatch.setenv("VAEFARM_STORE_THRESHOLD", "8")
    assert (Settings.from_env().store, Settings.from_env().store_threshold) == ("file:///now", 8)
    assert Settings.from_env(store="file:///said").store == "file:///said"
    monkeypatch.setenv("VAEFARM_STORE_THRESHOLD", "many")
    with pytest.raises(ConfigurationError, match="^VAEFARM_STORE_THRESHOLD='many': "):
        Settings.from_env()


def test_the_sweeper_removes_old_blobs_that_no_record_names_and_no_others(
    connection: redis.Redis, outside: Outside
) -> None:
    store = BlobStore(connection, outside.url, threshold=0)
    names = [latent_name("kept", "h", "s"), image_name("gone", "t-1", 0), image_name("gone", "t-1", 1)]
    for name in names:
        store.put(name, b"x", 60)

    def is_named(references: list[str]) -> list[bool]:
        return [reference == f"{outside.scheme}:{names[0]}" for reference in references]

    assert store.sweep(is_named, time.time()) == 0, "they are young: their jobs may be on the way"
    assert store.sweep(is_named, time.time() + 7200, is_over=lambda: True) == 0
    assert store.sweep(is_named, time.time() + 7200) == 2
    assert [store.get(f"{outside.scheme}:{name}", 10) for name in names] == [b"x", None, None]
    store.close()


def test_the_sweeper_of_a_folder_removes_what_writers_left_and_nothing_that_is_not_ours(
    connection: redis.Redis, tmp_path: Path
) -> None:
    store = BlobStore(connection, tmp_path.as_uri(), threshold=0)
    (tmp_path / "00").mkdir()
    part, foreign = tmp_path / "00" / ".1234.part", tmp_path / "00" / "README"
    for path in (part, foreign):
        path.write_bytes(b"half a picture")
        os.utime(path, (time.time() - 7200, time.time() - 7200))

    assert store.sweep(lambda references: [False for _ in references], time.time()) == 0
    assert not part.exists()
    assert foreign.exists()


def test_the_sweeper_of_a_bucket_leaves_alone_what_is_not_ours_and_removes_what_checks_left(
    connection: redis.Redis, bucket: BucketStore
) -> None:
    store = BlobStore(connection, bucket.url, threshold=0)
    foreign = ["farm/README", "farm/image/no-name", "farmer/image/a.t.0", "image/a.t.0", "other"]
    for key in [*foreign, "farm/check/123"]:
        bucket.put(key, b"x")

    assert store.sweep(lambda references: [False for _ in references], time.time() + 7200) == 0
    assert sorted(bucket.contents()) == sorted(foreign)
    store.close()


def test_a_bucket_of_several_pages_is_swept_a_page_at_a_time(
    connection: redis.Redis, bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_blobs, "PAGE_KEYS", 9)
    blobs = S3Blobs(bucket.bucket, "farm/")
    names = [image_name(f"job-{n}", "t", 0) for n in range(20)]
    blobs.put_many([(name, b"x") for name in names])
    asked: list[int] = []

    def is_named(references: list[str]) -> list[bool]:
        asked.append(len(references))
        return [reference.endswith("7.t.0") for reference in references]

    store = BlobStore(connection, bucket.url)
    removed = store.sweep(is_named, time.time() + 7200)

    assert asked == [9, 9, 2]
    assert removed == len(names) - len(bucket.contents())
    assert all(key.endswith("7.t.0") for key in bucket.contents())
    for one in (blobs, store):
        one.close()


def test_many_blobs_are_read_at_a_time_each_with_its_own_outcome(connection: redis.Redis, outside: Outside) -> None:
    store = BlobStore(connection, outside.url, threshold=3)
    names = [image_name(f"job-{n}", "t", 0) for n in range(2 * MOST_REQUESTS)]
    references = [store.put(name, b"%d" % n * (1 + n % 7), 60) for n, name in enumerate(names)]
    assert {reference.partition(":")[0] for reference in references} == {"redis", outside.scheme}

    wanted = [(reference, 20) for reference in references]
    wanted[10:10] = [(f"{outside.scheme}:image:none.t.0", 20), ("redis:image:none.t.0", 20), (references[13], 3)]
    found = store.get_many(wanted)

    gone, gone_of_redis, too_large = found[10:13]
    assert (gone, gone_of_redis) == (None, None)
    assert isinstance(too_large, FarmError)
    assert found[:10] + found[13:] == [b"%d" % n * (1 + n % 7) for n in range(2 * MOST_REQUESTS)]
    store.close()


def test_the_latents_of_a_batch_are_asked_for_at_a_time_and_no_more_than_so_many(
    connection: redis.Redis, held_store: HeldStore
) -> None:
    blobs = S3Blobs("bucket", "")
    names = [image_name(f"job-{n}", "t", 0) for n in range(3 * MOST_REQUESTS)]
    blobs.put_many([(name, name.encode()) for name in names])
    held_store.let.clear()
    held_store.most = 0
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(blobs.get_many, [(name, 100) for name in names])
        eventually("as many are asked for as may be", lambda: held_store.asked == MOST_REQUESTS)
        held_store.let.set()
        assert found.result(timeout=30) == [name.encode() for name in names]
    assert held_store.most == MOST_REQUESTS
    blobs.close()


def test_a_store_that_is_closed_ends_what_it_has_not_answered(held_store: HeldStore) -> None:
    blobs = S3Blobs("bucket", "")
    held_store.let.clear()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(blobs.put, "image:a.t.0", b"x")
        eventually("it is asked", lambda: held_store.asked)
        blobs.close()
        with pytest.raises(StoreAway, match="closed before it answered"):
            writing.result(timeout=10)


def test_a_large_blob_is_one_put_whole_or_absent(bucket: BucketStore) -> None:
    blobs, data = S3Blobs(bucket.bucket, ""), os.urandom(101 * 2**20)
    blobs.put("image:a.t.0", data)
    assert blobs.get("image:a.t.0", len(data)) == data
    assert bucket.uploads() == []
    assert list(bucket.contents()) == ["image/a.t.0"]
    blobs.close()


def test_no_repr_and_no_error_tells_the_credentials(bucket: BucketStore, connection: redis.Redis) -> None:
    blobs = S3Blobs("there-is-no-such-bucket", "farm/")
    with pytest.raises(InvalidStore) as caught:
        blobs.check()
    shown = f"{caught.value} {caught.value.__cause__!r} {blobs!r} {vars(blobs)!r}"
    shown += repr(Settings.from_env(store=bucket.url))
    assert SECRET_KEY not in shown
    blobs.close()


def test_s3fs_is_imported_only_where_a_bucket_is_used() -> None:
    script = (
        "import sys; from vaefarm_producer import Farm; Farm('redis://127.0.0.1:1').close();"
        " print([name for name in ('s3fs', 'fsspec', 'botocore', 'aiobotocore') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
