"""An S3 server on this machine."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import boto3

with warnings.catch_warnings():  # of its own imports
    warnings.simplefilter("ignore")
    from moto.server import ThreadedMotoServer

SECRET = "canary-of-the-store-51c9"


class Store:
    """The server, with a bucket ``team``; what its users have in their environment."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.environment: Mapping[str, str] = {
            "MLFLOW_S3_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "hpo",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="hpo",
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        self._client.create_bucket(Bucket="team")

    def put(self, name: str, content: bytes) -> None:
        """A file into the bucket."""
        self._client.put_object(Bucket="team", Key=name, Body=content)

    def names(self, folder: str) -> list[str]:
        """Of the files below a folder of the bucket."""
        found = self._client.list_objects_v2(Bucket="team", Prefix=f"{folder}/")
        return [entry["Key"].rpartition("/")[2] for entry in found.get("Contents", [])]


@contextlib.contextmanager
def running() -> Iterator[Store]:
    """The server, until the block ends."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Store(f"http://{host}:{port}")
    finally:
        server.stop()
