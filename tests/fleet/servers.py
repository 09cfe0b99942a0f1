"""An S3 server of this machine: moto's, which speaks the real protocol over a real socket."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """An empty bucket; this process and its children find the server by the environment."""
    server_module = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    s3fs = pytest.importorskip("s3fs", reason="pip install 'checkpoint-conversions[fleet]'")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    s3fs.S3FileSystem.clear_instance_cache()
    import requests

    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)
    s3fs.S3FileSystem().mkdir("models")
    try:
        yield "s3://models"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
        os.environ.clear()
        os.environ.update(before)
