"""Two jobs on one store in an object store, one of them killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clips import write_catalogue
from object_server import NEEDS_SERVER

from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import FeatureStore

pytestmark = [pytest.mark.slow, NEEDS_SERVER, pytest.mark.timeout(600)]


def test_jobs_share_and_survive(bucket: str, tiny_video_llm, tmp_path: Path) -> None:
    table, videos = write_catalogue(tmp_path, videos=60, texts=60)
    words = f"--model {tiny_video_llm('idefics3')} --items {table} --videos {videos} --frames 2"
    words += " --batch-size 1 --device cpu --workers 1 --json"
    command = [sys.executable, "-m", "linkedout_lightning.cli", "extract", *words.split()]

    def start(out: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--out", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    plain = start(str(tmp_path / "features"))
    out = f"{bucket}/shared-by-jobs"
    jobs = [start(out) for _ in range(3)]
    there = 0
    while there < 4 and jobs[0].poll() is None:
        try:
            there = len(FeatureStore.open(out))
        except StoreError:
            time.sleep(0.05)
    jobs[0].kill()
    reports = []
    for job in [plain, *jobs[1:]]:
        said, errors = job.communicate(timeout=500)
        assert job.returncode == 3, errors
        reports.append(json.loads(said))
    wanted, found = FeatureStore.open(tmp_path / "features"), FeatureStore.open(out)
    assert found.item_ids == wanted.item_ids
    assert found.failures == wanted.failures
    assert found.fingerprints() == wanted.fingerprints()
    ours, theirs = found.get(wanted.item_ids), wanted.get(wanted.item_ids)
    assert torch.equal(ours.features.view(torch.int16), theirs.features.view(torch.int16))
    assert torch.equal(ours.mask, theirs.mask)
    # What the killed one had done they found there, or did again; nobody did what another did.
    assert sum(report["done"] for report in reports[1:]) <= len(wanted)
