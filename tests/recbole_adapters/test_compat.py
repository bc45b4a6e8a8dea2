"""What RecBole changes in a process is as before once a session is over."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_world import World, run_plain

from linkedout_lightning.errors import ConfigError, MissingExtraError
from recbole_adapters.compat import SHIMS, require_recbole, session
from recbole_adapters.launcher import Request
from recbole_adapters.running import run_here

NUMPY = ("bool", "int", "float", "complex", "object", "str", "long", "unicode", "float_",
         "complex_", "unicode_")  # fmt: skip


def _of_numpy() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: getattr(np, name, "absent") for name in NUMPY} | {"names": sorted(vars(np))}


def _resolvers() -> dict[Any, Any]:
    return {first: list(f) for first, f in yaml.FullLoader.yaml_implicit_resolvers.items()}


WATCHED: dict[str, Callable[[], Any]] = {
    "numpy": _of_numpy,
    "sys.argv": lambda: (id(sys.argv), list(sys.argv)),
    "environment": lambda: {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
    "torch's generator": lambda: torch.get_rng_state().tolist(),
    "python's generator": random.getstate,
    "numpy's generator": lambda: repr(np.random.get_state()),
    "cudnn": lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    "default dtype": torch.get_default_dtype,
    "gradients": torch.is_grad_enabled,
    "threads": torch.get_num_threads,
    "YAML": lambda: (_resolvers(), yaml.load("1e-3", Loader=yaml.FullLoader)),
    "root logger": lambda: (logging.root.level, list(logging.root.handlers)),
    "warnings": lambda: list(warnings.filters),
    "folder": lambda: (os.getcwd(), sorted(os.listdir())),
}


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A process with settings of its own, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(sys, "argv", ["host", "--learning_rate=17", "--epochs=0", "stray"])
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    with session():  # what importing RecBole itself leaves behind is no session's
        import recbole.trainer  # noqa: F401
    return {name: look() for name, look in WATCHED.items()}


def _changed(before: dict[str, Any]) -> list[str]:
    return [name for name, look in WATCHED.items() if look() != before[name]]


def test_a_run_leaves_the_process_as_it_was(
    before: dict[str, Any], world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    settings = world.settings(linkedout={"encoder": "identity"}, epochs=1)
    del settings["checkpoint_dir"]  # RecBole's default is a folder `saved` where it is run
    request = Request("SASRec", "tiny", config_dict=settings, folder=folder, verbose=False)
    rate = run_here(request).config["learning_rate"]

    assert rate == settings["learning_rate"]
    assert not _changed(before)


def test_plain_recbole_in_a_session_leaves_it_too(before: dict[str, Any], world: World) -> None:
    run_plain("FEARec", world.settings("FEARec", epochs=1, reproducibility=True))
    assert not _changed(before)


def test_without_a_session_recbole_changes_all_that(before: dict[str, Any], world: World) -> None:
    # The guard would be worth nothing if there were nothing to guard against.
    code = f"""
import os, sys, numpy as np, torch, yaml
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_
sys.argv = ["host", "--learning_rate=17"]
from recbole.config import Config
from recbole.utils import init_seed
config = Config(model="SASRec", dataset="tiny", config_dict={world.settings()!r})
init_seed(3, True)
print(config["learning_rate"], os.environ["CUDA_VISIBLE_DEVICES"], torch.initial_seed(),
      yaml.load("1e-3", Loader=yaml.FullLoader), torch.backends.cudnn.deterministic, np.int)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=5)[:5] == ["17", "0", "3", "0.001", "True"]
    assert "numpy.int64" in done.stdout


def test_a_session_that_fails_leaves_it_too(before: dict[str, Any], world: World) -> None:
    def fail() -> None:
        with session():
            from recbole.config import Config
            from recbole.utils import init_seed

            Config(model="SASRec", dataset="tiny", config_dict=world.settings())
            init_seed(1, True)
            logging.getLogger().addHandler(logging.NullHandler())
            logging.getLogger().setLevel(logging.CRITICAL)
            raise KeyError("whatever")

    with pytest.raises(KeyError, match="whatever"):
        fail()
    assert not _changed(before)
    with pytest.raises(ConfigError):
        run_here(Request("SASRec", "tiny", config_dict=world.settings(metrics=["Nonsense"])))
    assert not _changed(before)


def test_sessions_are_nested_and_repeated(before: dict[str, Any], world: World) -> None:
    from recbole.config import Config
    from recbole.utils import init_seed

    for _ in range(2):
        with session():
            init_seed(5, True)
            state = torch.get_rng_state()
            with session():
                Config(model="SASRec", dataset="tiny", config_dict=world.settings())
                init_seed(6, False)
            assert torch.equal(torch.get_rng_state(), state)
            assert np.float_ is np.float64
            Config(model="GRU4Rec", dataset="tiny", config_dict=world.settings())
        assert not _changed(before)


def test_fearec_prints_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    run_plain("FEARec", world.settings("FEARec", epochs=1))
    assert capsys.readouterr().out == ""


def test_importing_the_package_imports_neither_recbole_nor_torch() -> None:
    code = (
        "import sys, recbole_adapters\n"
        "dir(recbole_adapters)\n"
        "print([n for n in ('recbole', 'torch', 'pandas', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_shim_names_its_fault() -> None:
    assert all(len(shim.fault) > 20 for shim in SHIMS)
    assert len({shim.fault for shim in SHIMS}) == len(SHIMS)


@pytest.mark.parametrize("version", ["3.0.0", "3.1.0rc1", "12.0"])
def test_pandas_3_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, pandas=version)
    with pytest.raises(ConfigError, match=r"pandas is .*pip install 'pandas<3'"):
        require_recbole()


def test_another_recbole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, recbole="1.1.1")
    with pytest.raises(ConfigError, match=r"recbole is 1\.1\.1; .*1\.2\.1"), session():
        pass


@pytest.mark.parametrize("package", ["recbole", "pandas", "texttable"])
def test_an_absent_package_gives_the_install_command(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a)
    )
    with pytest.raises(MissingExtraError) as raised, session():
        pass
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert package in str(error)
        assert "pip install --no-deps recbole==1.2.1" in str(error)


def _pretend(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: versions.get(name) or real(name)
    )
