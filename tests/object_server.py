"""An object store for tests, played by moto's server: `pip install 'moto[server]'` runs them.

Another environment's server does as well: name its program in LINKEDOUT_MOTO_SERVER.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest

SERVER = os.environ.get("LINKEDOUT_MOTO_SERVER") or shutil.which("moto_server")
NEEDS_SERVER = pytest.mark.skipif(SERVER is None, reason="moto's server is not installed")


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [str(SERVER), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    options = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": address,
        "AWS_ALLOW_HTTP": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name, value)
        try:
            for _ in range(100):
                try:
                    request = urllib.request.Request(f"{address}/bucket", method="PUT")
                    urllib.request.urlopen(request, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield "s3://bucket"
        finally:
            server.terminate()
            server.wait(10)
