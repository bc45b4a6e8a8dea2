"""Real crashes, real hangs, real floods of memory, in the worker and never here."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from barcodes import expected_numbers, numbers, write_video
from broken_decoders import pid_of

from linkedout_lightning.errors import ConfigError, MissingExtraError, VideoDecodeError
from linkedout_lightning.video import DecodePool, FrameSampler, backends

BROKEN = "broken_decoders:by_name"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def sampler():
    return FrameSampler(frames=2, backend=BROKEN, timeout_s=20)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("good") / "v.mp4")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "decoder crashed (SIGSEGV)"),
        ("wild", "decoder crashed (SIGSEGV)"),
        ("exit", "decoder ended without an answer (exit code 3)"),
        ("raise", "decoder failed: KeyError: 'odd\\nmessage'"),
        ("big", "decoder gave an array of shape (1, 5000, 5000, 3)"),
    ],
)
def test_a_failing_decoder_costs_one_video(sampler, name, reason):
    with pytest.raises(VideoDecodeError) as caught:
        sampler(name)
    assert reason in caught.value.reason
    assert sampler("fine").data.max() == 7


@pytest.mark.parametrize("name", ["hang", "deaf"])
def test_a_hanging_decoder_is_ended(name):
    sampler = FrameSampler(frames=2, backend=BROKEN, timeout_s=1.0)
    sampler("fine")
    begun = time.monotonic()
    with pytest.raises(VideoDecodeError, match="took longer than 1 s"):
        sampler(name)
    assert time.monotonic() - begun < 8
    assert len(sampler("fine")) == 2


def test_a_decoder_that_wants_all_memory_is_refused_it():
    small = FrameSampler(frames=2, backend=BROKEN, memory_mb=256)
    with pytest.raises(VideoDecodeError, match="out of memory"):
        small("memory")
    assert len(small("fine")) == 2


def test_output_of_native_libraries_does_not_disturb(sampler, capfd):
    assert sampler("noise").data.max() == 7
    assert "noise" not in "".join(capfd.readouterr())


def test_the_worker_imports_no_torch(sampler):
    assert sampler("modules").data.max() == 0


def test_importing_the_package_needs_neither_torch_nor_a_decoder():
    code = (
        "import sys; import linkedout_lightning.video; "
        "print([m for m in ('torch', 'av', 'decord', 'torchcodec') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_one_process_serves_many_videos_and_threads(sampler):
    with ThreadPoolExecutor(4) as threads:
        workers = {pid_of(frames) for frames in threads.map(sampler, ["pid"] * 8)}
    assert len(workers) == 1
    assert workers != {os.getpid()}


def test_a_worker_killed_while_idle_is_replaced(sampler):
    os.kill(pid_of(sampler("pid")), signal.SIGKILL)
    time.sleep(0.2)
    assert len(sampler("fine")) == 2


def _gone(pid):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_the_worker_ends_with_its_sampler():
    sampler = FrameSampler(frames=2, backend=BROKEN)
    pid = pid_of(sampler("pid"))
    del sampler
    assert _gone(pid)


def test_the_worker_ends_when_its_caller_is_killed():
    code = (
        "import os, signal; from broken_decoders import pid_of; "
        "from linkedout_lightning.video import FrameSampler; "
        f"s = FrameSampler(frames=2, backend={BROKEN!r}); "
        "print(pid_of(s('pid')), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert _gone(int(result.stdout)), result.stderr


def test_an_interrupted_call_leaves_no_stale_answer(sampler, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    from linkedout_lightning.video import isolation

    with monkeypatch.context() as patch:
        patch.setattr(isolation, "_read_answer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sampler("slow")
    before = pid_of(sampler("pid"))
    assert before == pid_of(sampler("pid"))


def _in_fork(sampler, queue):
    queue.put(pid_of(sampler("pid")))


def test_a_fork_has_a_worker_of_its_own(sampler):
    mine = pid_of(sampler("pid"))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_fork, args=(sampler, queue), daemon=True)
    child.start()
    theirs = queue.get(timeout=30)
    child.join(timeout=30)
    assert theirs != mine
    assert pid_of(sampler("pid")) == mine


def test_a_sampler_is_a_value(sampler):
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy == sampler
    assert hash(copy) == hash(sampler)
    assert len(copy("fine")) == 2
    assert FrameSampler(size=[2, 3]).size == (2, 3)


def test_the_fingerprint_names_what_decides_the_pixels():
    base = FrameSampler().fingerprint()
    assert base == FrameSampler(backend="pyav", timeout_s=3, memory_mb=999).fingerprint()
    assert set(base["versions"]) == {"av"}
    for other in ({"frames": 9}, {"size": 8}, {"size": (8, 8)}, {"backend": "decord"}):
        assert FrameSampler(**other).fingerprint() != base
    # A bare number stood for an exact side in stores of earlier days, whose frames were enlarged.
    assert FrameSampler(size=8).fingerprint()["size"] == "shorter side at most 8"
    assert FrameSampler(size=(8, 9)).fingerprint()["size"] == [8, 9]
    assert base["size"] is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"backend": "opencv"}, "pyav, decord, torchcodec"),
        ({"strategy": "random"}, "uniform"),
        ({"frames": 0}, "frames"),
        ({"size": -1}, "size"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"backend": "decord", "isolate": False}, "isolate"),
    ],
)
def test_unusable_arguments_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        FrameSampler(**wrong)


def test_a_backend_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"torchcodec.*linkedout-lightning\[video\]"):
        FrameSampler(backend="torchcodec")


# A backend that falls back, as decord does.


@pytest.mark.parametrize(
    ("name", "reason"),
    [("hang", "took longer than 1 s"), ("crash", "crashed (SIGSEGV)"), ("raise", "KeyError")],
)
def test_a_backend_with_a_fallback_records_the_reason(tmp_path, good, monkeypatch, name, reason):
    pytest.importorskip("decord")
    broken = backends.Backend("decord", BROKEN, ("decord",), True, "pyav")
    monkeypatch.setitem(backends.BACKENDS, "decord", broken)
    path = tmp_path / f"{name}-v.mp4"
    path.write_bytes(good.read_bytes())
    result = FrameSampler(frames=5, backend="decord", timeout_s=1 if name == "hang" else 30)(path)
    assert numbers(result.data) == expected_numbers(60, 5)
    assert result.backend == "pyav"
    assert result.fallback_reason is not None
    assert result.fallback_reason.startswith("decord: ")
    assert reason in result.fallback_reason


def test_when_the_fallback_fails_too_its_reason_counts(tmp_path):
    pytest.importorskip("decord")
    with pytest.raises(VideoDecodeError, match="no such file"):
        FrameSampler(backend="decord")(tmp_path / "missing.mp4")


# The pool.


def test_a_pool_keeps_order_and_survives_everything():
    names = ["slow-1", "fine", "crash", "raise", "fine", "slow-2", "exit", "hang", "fine", "noise"]
    with DecodePool(FrameSampler(2, backend=BROKEN, timeout_s=1.5), workers=3, ahead=5) as pool:
        outcomes = list(pool.map(names))
    reasons = [o.reason if isinstance(o, VideoDecodeError) else None for o in outcomes]
    expected = {
        "crash": "SIGSEGV",
        "raise": "KeyError",
        "exit": "exit code 3",
        "hang": "took longer",
    }
    for name, reason in zip(names, reasons, strict=True):
        assert (expected[name] in reason) if name in expected else (reason is None), name
    assert [o.path for o in outcomes if isinstance(o, VideoDecodeError)] == [
        name for name in names if name in expected
    ]


def test_a_pool_reads_ahead_but_not_far():
    taken = []

    def names():
        for i in range(20):
            taken.append(i)
            yield "fine"

    with DecodePool(FrameSampler(2, backend=BROKEN), workers=2, ahead=4) as pool:
        results = pool.map(names())
        next(results)
        assert len(taken) == 4
        next(results)
        assert len(taken) == 5
        assert len(list(results)) == 18


def test_a_pool_decodes_at_once():
    with DecodePool(FrameSampler(2, backend=BROKEN), workers=4, ahead=8) as pool:
        pids = {
            pid_of(frames) for frames in pool.map(["pid", "slow", "pid", "slow"] * 4) if len(frames)
        }
        begun = time.monotonic()
        assert len(list(pool.map(["slow"] * 8))) == 8
        assert time.monotonic() - begun < 8 * 0.3
    assert pids


def test_a_pool_left_early_ends_its_processes():
    with DecodePool(FrameSampler(2, backend=BROKEN, timeout_s=50), workers=2) as pool:
        results = pool.map(["pid", "hang", "hang", "hang"])
        pid = pid_of(next(results))
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    assert _gone(pid)
    assert not [t for t in threading.enumerate() if t.name.startswith("decode-")]
    with pytest.raises(ConfigError, match="closed"):
        next(pool.map(["fine"]))


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"ahead": 0}])
def test_an_impossible_pool_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DecodePool(FrameSampler(2), **wrong)


def test_a_pool_gives_what_its_sampler_gives(good, tmp_path):
    with DecodePool(FrameSampler(6), workers=1) as pool:
        frames, missing = pool.map([good, tmp_path / "missing"])
    assert numbers(frames.data) == expected_numbers(60, 6)
    assert missing.reason == "no such file"
