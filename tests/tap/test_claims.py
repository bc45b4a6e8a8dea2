"""Claims of several workers on one store's items."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from linkedout_lightning.tap import claims as module
from linkedout_lightning.tap.claims import Claims, claims_on


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_one_holds_another_cannot_take(tmp_path: Path) -> None:
    first, second = Claims(str(tmp_path)), Claims(str(tmp_path))
    claim = first.take(["a", "b"])
    assert claim is not None
    assert second.take(["b", "c"]) is None  # all or nothing
    third = second.take(["c"])
    assert third is not None
    first.refresh()
    assert set(first.held()) == set(second.held()) == {"a", "b", "c"}

    first.end(claim, done=True)
    second.end(third, done=False)
    second.refresh()
    first.refresh()
    assert second.newly_done() == {"a", "b"}
    assert second.newly_done() == set()
    assert first.newly_done() == set()  # its own are no news, what was given up is not done
    assert first.held() == second.held() == {}
    assert first.take(["a", "b", "c"]) is not None


def test_what_was_done_before_is_no_news(tmp_path: Path) -> None:
    first = Claims(str(tmp_path))
    claim = first.take(["a"])
    assert claim is not None
    first.end(claim, done=True)
    assert Claims(str(tmp_path)).newly_done() == set()


def test_a_worker_of_elsewhere_is_dead_after_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(module, "_place", lambda: "another boot of another machine")
        far = Claims(str(tmp_path), lease=100.0, clock=clock)
    assert far.take(["a"]) is not None
    near = Claims(str(tmp_path), lease=100.0, clock=clock)
    clock.now = 99.0
    assert near.take(["a"]) is None
    far.show_life()  # a third of the lease has passed: it writes
    near.refresh()
    clock.now = 190.0
    assert near.take(["a"]) is None
    clock.now = 200.0
    near.refresh()
    assert near.held() == {}
    assert near.take(["a"]) is not None


def test_life_is_shown_only_when_it_is_due(tmp_path: Path) -> None:
    clock = Time()
    claims = Claims(str(tmp_path), lease=90.0, clock=clock)
    version = claims._dataset.version
    claims.show_life()
    assert claims.take(["a"]) is not None
    clock.now = 29.0
    claims.show_life()
    assert claims._dataset.version == version + 1
    clock.now = 31.0
    claims.show_life()
    claims.show_life()
    assert claims._dataset.version == version + 2


def test_a_worker_that_died_here_is_noticed_at_once(tmp_path: Path) -> None:
    take = (
        "import os, sys; from linkedout_lightning.tap.claims import Claims\n"
        "assert Claims(sys.argv[1]).take(['a', 'b'])\n"
        "print('taken', flush=True); sys.stdin.read(); os._exit(1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", take, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    claims = Claims(str(tmp_path))
    assert set(claims.held()) == {"a", "b"}
    assert all(f"process {process.pid}" in who for who in claims.held().values())
    process.kill()
    process.wait()
    assert claims.held() == {}
    assert claims.take(["b"]) is not None


def test_a_process_number_used_again_is_another_process(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path))
    who = json.loads(claims.worker)
    assert not module._is_dead_here(json.dumps(who))
    assert module._is_dead_here(json.dumps(who | {"started": "1"}))
    assert not module._is_dead_here(json.dumps(who | {"place": None, "started": "1"}))


def test_of_many_at_once_one_gets_each_item(tmp_path: Path) -> None:
    workers = [Claims(str(tmp_path)) for _ in range(4)]
    keys = [f"k{i}" for i in range(12)]

    def take_all(worker: Claims) -> list[str]:
        return [key for key in keys if worker.take([key]) is not None]

    with ThreadPoolExecutor(4) as threads:
        taken = [key for found in threads.map(take_all, workers) for key in found]
    assert sorted(taken) == sorted(keys)


def test_the_end_of_a_block_gives_up_what_is_held(tmp_path: Path) -> None:
    def job() -> None:
        with claims_on(str(tmp_path), lease=60.0) as claims:
            claims.take(["a"])
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        job()
    other = Claims(str(tmp_path))
    assert other.held() == {}
    assert other.newly_done() == set()


def test_tidying_changes_nothing_that_anybody_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MANY_PIECES", 6)
    slow, busy = Claims(str(tmp_path)), Claims(str(tmp_path))
    held = slow.take(["held"])
    for number in range(20):
        claim = busy.take([f"k{number}"])
        assert claim is not None
        busy.end(claim, done=True)
    assert len(busy._dataset.get_fragments()) <= 8
    slow.refresh()
    assert slow.newly_done() == {f"k{number}" for number in range(20)}
    assert set(Claims(str(tmp_path)).held()) == {"held"}
    assert held is not None

    # What ended long ago is forgotten; what is held is not.
    monkeypatch.setattr(module, "_FORGET_SECONDS", -1.0)
    for number in range(8):
        claim = busy.take([f"l{number}"])
        assert claim is not None
        busy.end(claim, done=True)
    assert busy._dataset.count_rows() < 16
    assert set(Claims(str(tmp_path)).held()) == {"held"}
