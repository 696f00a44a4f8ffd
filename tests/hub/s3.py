"""An S3 of the tests' own: moto's server on loopback, in this process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import asking


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Within: an S3 runs, the environment names it, and it has a bucket `adapters`; its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of moto's own dependencies
        from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        assert asking.put(f"{url}/adapters", headers={"Host": f"{host}:{port}"}).status_code == 200
        yield url
    finally:
        server.stop()
