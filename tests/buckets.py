"""A bucket on moto's S3 server."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@contextmanager
def bucket(address: str = "127.0.0.1") -> Iterator[str]:
    """URL of a folder in it; the server listens on an address of this machine, so the URL names that, too."""
    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {key.lower(): value for key, value in CREDENTIALS.items()}
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys)
        client.create_bucket(Bucket="bucket")
        yield f"s3://bucket/runs?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    finally:
        server.stop()
