"""An S3 server of the tests' own on loopback, and what lies in a bucket of it or in a folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

from vaefarm_producer.local.redis_server import free_port

#: The credentials that the tests use; the server takes any.
ACCESS_KEY, SECRET_KEY = "AKIAEXAMPLE", "a-secret-that-nobody-prints"


class S3Server:
    """moto's server; what it holds outlives a stop, as it does where a network is away."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server: ThreadedMotoServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What botocore reads of it; nothing of this machine's own."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="eu-central-1",
            config=Config(retries={"max_attempts": 0}),
        )


@dataclass
class BucketStore:
    """A bucket, and a prefix in it."""

    scheme: ClassVar[str] = "s3"
    server: S3Server
    bucket: str
    _client: Any = field(init=False)

    def __post_init__(self) -> None:
        self._client = self.server.client()
        self._client.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/farm"

    def contents(self) -> dict[str, bytes]:
        """Every object of the bucket, by its key."""
        return {key: self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in self.names()}

    def names(self) -> list[str]:
        """The key of every object of the bucket."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def uploads(self) -> list[Any]:
        """Uploads in parts that nobody ended."""
        found: list[Any] = self._client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return found

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def close(self) -> None:
        self._client.close()


@dataclass
class FolderStore:
    """A folder."""

    scheme: ClassVar[str] = "file"
    folder: Path

    @property
    def url(self) -> str:
        return self.folder.as_uri()

    def contents(self) -> dict[str, bytes]:
        """Every file below it, by its path."""
        return {name: (self.folder / name).read_bytes() for name in self.names()}

    def names(self) -> list[str]:
        """Every file's path."""
        return [str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()]
