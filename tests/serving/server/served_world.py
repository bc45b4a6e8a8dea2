"""Small bundles of untrained models, and a server over them in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linkedout_lightning import IDItemEncoder, LinkedOutItemEncoder, SequentialRecommender
from linkedout_lightning.serving import export_bundle

ITEMS, LAYERS, SLOTS, HIDDEN, DIM = 60, (2, 5, 9), 2, 12, 16
TOKEN = "a-token-of-enough-letters"
CLIP = bytes(range(256)) * 40


def ids(count: int = ITEMS) -> list[str]:
    return [f"v{number:03d}" for number in range(1, count + 1)]


def write_linkedout(path: Path, *, seed: int = 0, items: int = ITEMS) -> Path:
    """A bundle of a model that reads features, with texts, popularity and vectors by layer."""
    torch.manual_seed(seed)
    features = torch.randn(items, len(LAYERS), SLOTS, HIDDEN)
    encoder = LinkedOutItemEncoder.from_features(
        features, item_ids=ids(items), layers=LAYERS, dim=DIM, rank=8, queries=2
    )
    model = SequentialRecommender(
        encoder, "sasrec", max_len=8, backbone_options={"blocks": 1, "heads": 2}
    )
    export_bundle(
        model,
        path,
        item_ids=ids(items),
        counts=torch.arange(items + 1),
        columns={"title": [f"Film {number} <b>&" for number in range(1, items + 1)]},
        layers=True,
        formats=(),
    )
    return path


def write_id(path: Path, *, seed: int = 1, items: int = ITEMS) -> Path:
    """A bundle of a model that knows items by their ids alone."""
    torch.manual_seed(seed)
    model = SequentialRecommender(
        IDItemEncoder(items, dim=DIM), "gru4rec", max_len=8, backbone_options={"hidden": DIM}
    )
    titles = [f"Film {number} <b>&" for number in range(1, items + 1)]
    export_bundle(model, path, item_ids=ids(items), columns={"title": titles}, formats=())
    return path


def write_film(path: Path, *, shade: int) -> None:
    """A second of H.264, as browsers play it."""
    import av
    import numpy as np

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "30"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for step in range(12):
            picture = np.full((64, 64, 3), shade, dtype=np.uint8)
            picture[step * 4 : step * 4 + 16, 20:44] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A running `linkedout serve`."""

    def __init__(self, *arguments: str, token: str | None = TOKEN) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("LINKEDOUT_TOKEN", None)
        if token is not None:
            environment["LINKEDOUT_TOKEN"] = token
        self.process = subprocess.Popen(
            [sys.executable, "-m", "linkedout_lightning.cli", "serve", *arguments, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.lines: list[str] = []
        self.address = self._address()
        self.port = int(self.address.rpartition(":")[2])
        self.wait_until_well()

    def _address(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"serving at (http://\S+)", line):
                return found[1]
        raise AssertionError(f"the server ended at once: {''.join(self.lines)}")

    def wait_until_well(self) -> None:
        for _ in range(600):
            try:
                if self.get("/healthz").status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] = {},
    ) -> Reply:
        """Send one request; a body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **headers}
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(
            self.address + path, data=data, method=method, headers=sent
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return Reply(reply.status, reply.headers, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())

    def get(self, path: str, **more: Any) -> Reply:
        return self.ask("GET", path, **more)

    def post(self, path: str, body: Any, **more: Any) -> Reply:
        return self.ask("POST", path, body, **more)

    def recommend(self, history: list[str], k: int = 10, **more: Any) -> Reply:
        return self.post("/recommend", {"history": history, "k": k, **more})

    def end(self) -> int:
        """Ask it to end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        self.lines.append(self.process.stdout.read())
        return self.process.wait(60)
