"""A run on several processes of this machine, or on those that torchrun started.

Each process is a fresh Python that reads the request from a file, so that a caller's script needs
no ``if __name__ == "__main__"``. A model given as a class must therefore be importable by name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.files import write_json
from linkedout_lightning.errors import ConfigError, LinkedOutError
from recbole_adapters.launcher import Request, Run
from recbole_adapters.naming import imported, name_of

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 3.0
"""How long the others have to say what was wrong once one process has failed."""


def run_processes(request: Request, nproc: int) -> Run:
    """Train and test on several processes: one a GPU, or sharing the cores.

    Args:
        request: The run.
        nproc: How many.

    Returns:
        The figures, which are those of one process.

    Raises:
        ConfigError: More processes than GPUs, or a request that cannot be handed over.
        RuntimeError: A process ended without a word.
        Exception: Whatever the first failing process raised, of the same type.
    """
    from recbole_adapters.compat import session
    from recbole_adapters.distributed import device_of
    from recbole_adapters.running import read_config

    with session():
        device_of(read_config(request), nproc - 1, nproc)
    with tempfile.TemporaryDirectory(prefix="linkedout-") as name:
        folder = Path(name)
        write_json(folder / "request.json", _described(request) | {"nproc": nproc})
        processes: list[subprocess.Popen[bytes]] = []
        try:
            processes.extend(_start(folder, rank, nproc) for rank in range(nproc))
            _watch(folder, processes)
        finally:
            for process in processes:
                with contextlib.suppress(OSError):
                    process.kill()
            for process in processes:
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
        return Run(json.loads((folder / "run.json").read_text(encoding="utf-8")))


def run_launched(request: Request, out: bool) -> Run:
    """This process's part of a run whose processes torchrun started.

    Args:
        request: The run; its folder is that of the first process.
        out: Whether the folder is given; otherwise the first process names it.

    Returns:
        The figures, in each process.
    """
    import torch

    from recbole_adapters.compat import session
    from recbole_adapters.distributed import Group, device_of, launched, started
    from recbole_adapters.launcher import with_default_folder
    from recbole_adapters.running import read_config, run_here

    place = launched()
    assert place is not None
    rank, size, local = place
    with session():
        config = read_config(request)
    device = device_of(config, local, int(os.environ.get("LOCAL_WORLD_SIZE", local + 1)))
    with contextlib.ExitStack() as stack:
        if torch.distributed.is_initialized():
            group = Group(rank, size, device)
        else:
            group = stack.enter_context(started(rank, size, device, meeting="env://"))
        if not out:
            request = with_default_folder(request)
        request = replace(request, folder=Path(group.from_first(str(request.folder))))
        return run_here(request, group).run


def main(argv: Sequence[str] | None = None) -> int:
    """One process's part of :func:`run_processes`.

    Args:
        argv: The folder of the request and this process's number.
    """
    parser = argparse.ArgumentParser(prog="python -m recbole_adapters.processes")
    parser.add_argument("folder", type=Path, help="holds request.json")
    parser.add_argument("rank", type=int)
    arguments = parser.parse_args(argv)
    folder, rank = arguments.folder, arguments.rank
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        figures = _run_rank(folder, rank)
    except BaseException as error:
        write_json(folder / f"error-{rank}.json", _told(error))
        return 1
    if rank == 0:
        write_json(folder / "run.json", figures)
    return 0


def _run_rank(folder: Path, rank: int) -> Run:
    import torch

    from recbole_adapters.compat import session
    from recbole_adapters.distributed import device_of, started
    from recbole_adapters.running import read_config, run_here

    found = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    nproc = found.pop("nproc")
    model = found.pop("model")
    request = Request(
        **found | {"config_files": tuple(found["config_files"]), "folder": Path(found["folder"])},
        model=imported(model["class"]) if "class" in model else model["name"],
    )
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with session():
        device = device_of(read_config(request), rank, nproc)
    with started(rank, nproc, device, meeting=f"file://{folder / 'meeting'}") as group:
        return run_here(request, group).run


def _start(folder: Path, rank: int, nproc: int) -> subprocess.Popen[bytes]:
    threads = str(max(_cores() // nproc, 1))
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | os.environ
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        environment.pop(name, None)
    # The processes meet on this machine alone, whatever its name resolves to.
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback:
        environment.setdefault("GLOO_SOCKET_IFNAME", loopback)
    # What the caller can import, such as the module of a model of its own, these can too.
    paths = [path or os.getcwd() for path in sys.path]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    with (folder / f"log-{rank}.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "recbole_adapters.processes", str(folder), str(rank)],
            stdin=subprocess.PIPE,  # its end is the sign that this process is gone
            stdout=None if rank == 0 else log,
            stderr=None if rank == 0 else log,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the caller alone, which ends these
        )


def _watch(folder: Path, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all are done, or raise what went wrong in the first that failed."""
    failed_at: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        if all(code == 0 for code in codes):
            return
        if any(codes):
            failed_at = failed_at or time.monotonic()
            late = time.monotonic() - failed_at > _GRACE_SECONDS
            if late or all(code is not None for code in codes):
                break
        time.sleep(_POLL_SECONDS)
    told = [json.loads(file.read_text("utf-8")) for file in folder.glob("error-*.json")]
    # Once one is gone the others fail too, for want of it; what was raised on purpose comes first.
    killed = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
    told.sort(key=lambda one: (not one["on_purpose"], one["at"]))
    if told and (told[0]["on_purpose"] or not killed):
        raise _error(told[0])
    rank = killed[0] if killed else next(rank for rank, code in enumerate(codes) if code)
    raise RuntimeError(f"process {rank} of {len(processes)} {_ending(folder, rank, codes[rank])}")


def _ending(folder: Path, rank: int, code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"was ended by {name}{hint}"
    log = (folder / f"log-{rank}.txt").read_text("utf-8", errors="replace").strip().splitlines()
    return f"ended with code {code}: {log[-1] if log else 'see its output above'}"


def _described(request: Request) -> dict[str, Any]:
    """A request as JSON that any process can read."""
    model = request.model
    return {
        "model": {"name": model} if isinstance(model, str) else {"class": name_of(model)},
        "dataset": request.dataset,
        "config_files": list(request.config_files),
        "config_dict": _plain(request.config_dict),
        "folder": str(request.folder),
        "saved": request.saved,
        "verbose": request.verbose,
    }


def _plain(settings: Any) -> Any:
    try:
        return json.loads(json.dumps(settings))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`config_dict` cannot be handed to other processes ({error}); give numbers, strings, "
            "lists and mappings, or nproc=1"
        ) from error


def _told(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    try:
        state = json.loads(json.dumps(vars(error)))
    except (TypeError, ValueError):
        state = {}
    return {
        "type": f"{kind.__module__}:{kind.__qualname__}",
        "message": str(error),
        "state": state,
        "on_purpose": isinstance(error, LinkedOutError),
        "at": time.time(),
        "trace": "".join(traceback.format_exception(error)),
    }


def _error(told: dict[str, Any]) -> Exception:
    """The error that another process told of, as one of this process."""
    try:
        kind = imported(told["type"])
    except (ImportError, AttributeError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
        told["message"] = f"{told['type'].rpartition(':')[2]}: {told['message']}"
    error: Exception = kind.__new__(kind)
    error.args = (told["message"],)
    vars(error).update(told["state"])
    if not told["on_purpose"]:
        error.add_note(f"raised in another process:\n{told['trace']}")
    return error


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without what is left of a group whose other processes may be gone, which would be waited for.
    os._exit(code)
