"""Everything that RecBole 1.2.1 needs to run on current libraries, and what it would leave behind.

Each shim names the fault that it answers and holds only inside :func:`session`; the caller's
process is as before once the session ends. Faults of the figures themselves (rounding, padding
and averaging over processes) are answered where the figures are made, in ``trainer`` and ``data``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from linkedout_lightning.errors import ConfigError, MissingExtraError

RECBOLE = "1.2.1"
NEEDS = ("recbole", "pandas", "scipy", "texttable", "colorlog", "colorama")
INSTALL = f"pip install 'linkedout-lightning[recbole]' && pip install --no-deps recbole=={RECBOLE}"


@dataclass(frozen=True)
class Shim:
    """One fault of RecBole and what holds it off.

    Attributes:
        fault: What happens without it.
        hold: Makes the context that answers it.
    """

    fault: str
    hold: Callable[[], contextlib.AbstractContextManager[None]]


class MissingRecBoleError(MissingExtraError):
    """RecBole, or a package that it imports, is not installed.

    Args:
        package: The package.
    """

    def __init__(self, package: str) -> None:
        super().__init__(package, "recbole", "a RecBole model")
        # RecBole pins ray, which has no release for current Pythons, hence two commands.
        self.msg = f"a RecBole model needs {package}, which is not installed: {INSTALL}"
        self.args = (self.msg,)

    def __reduce__(self) -> Any:
        return type(self), (self.package,)


def require_recbole() -> None:
    """Check that RecBole can run here.

    Raises:
        MissingRecBoleError: RecBole, or a package that it imports, is not installed.
        ConfigError: A version with which its figures would be wrong.
    """
    for package in NEEDS:
        if importlib.util.find_spec(package) is None:
            raise MissingRecBoleError(package)
    recbole, pandas = (importlib.metadata.version(name) for name in ("recbole", "pandas"))
    if recbole != RECBOLE:
        raise ConfigError(
            f"recbole is {recbole}; the adapters are made for {RECBOLE}, whose faults they answer: "
            f"pip install --no-deps recbole=={RECBOLE}"
        )
    if int(pandas.partition(".")[0]) >= 3:
        raise ConfigError(
            f"pandas is {pandas}; RecBole {RECBOLE} needs pandas below 3, with which its padding "
            "tokens turn into -9223372036854775808 without a word: pip install 'pandas<3'"
        )


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Run RecBole inside; nothing of the process is changed afterwards.

    Sessions may be nested. They change the process while they last, so not two threads at once.

    Raises:
        MissingRecBoleError: RecBole is not installed.
        ConfigError: A version with which its figures would be wrong.
    """
    require_recbole()
    with contextlib.ExitStack() as stack:
        for shim in SHIMS:
            stack.enter_context(shim.hold())
        yield


@contextlib.contextmanager
def _numpy_names() -> Iterator[None]:
    import numpy

    names = {
        "bool": "bool_", "int": "int_", "float": "float64", "complex": "complex128",
        "object": "object_", "str": "str_", "long": "int_", "unicode": "str_",
        "float_": "float64", "complex_": "complex128", "unicode_": "str_",
    }  # fmt: skip
    with _restored_attributes(numpy, tuple(names)):
        # All that `Config` sets, as one that comes out of a checkpoint sets nothing.
        for old, new in names.items():
            setattr(numpy, old, getattr(numpy, new))
        yield


@contextlib.contextmanager
def _command_line() -> Iterator[None]:
    arguments = sys.argv
    sys.argv = arguments[:1] or ["recbole"]
    try:
        yield
    finally:
        sys.argv = arguments


@contextlib.contextmanager
def _visible_devices() -> Iterator[None]:
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _random_state() -> Iterator[None]:
    import numpy
    import torch

    cudnn = torch.backends.cudnn
    with (
        _restored_attributes(cudnn, ("benchmark", "deterministic")),
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
    ):
        python, of_numpy = random.getstate(), numpy.random.get_state()
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(of_numpy)


@contextlib.contextmanager
def _yaml_resolver() -> Iterator[None]:
    import yaml

    with _restored_attributes(yaml.FullLoader, ("yaml_implicit_resolvers",)):
        yaml.FullLoader.yaml_implicit_resolvers = {
            first: list(found) for first, found in yaml.FullLoader.yaml_implicit_resolvers.items()
        }
        yield


@contextlib.contextmanager
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module="recbole")
        yield


@contextlib.contextmanager
def _no_tensorboard() -> Iterator[None]:
    from recbole.trainer import trainer

    with _restored_attributes(trainer, ("get_tensorboard",)):
        trainer.get_tensorboard = lambda logger: _Silent()  # noqa: ARG005
        yield


@contextlib.contextmanager
def _no_prints() -> Iterator[None]:
    from recbole.model.sequential_recommender import fearec

    with _restored_attributes(fearec, ("print",)):
        fearec.print = _nothing
        yield


@contextlib.contextmanager
def _restored_attributes(owner: Any, names: tuple[str, ...]) -> Iterator[None]:
    # The owner's own entry and not what it inherits: a class's method would come back bound.
    own = dict(vars(owner))
    kept = {name: own[name] for name in names if name in own}
    if not isinstance(owner, type) and len(kept) < len(names):
        kept |= {name: getattr(owner, name) for name in names if _readable(owner, name)}
    try:
        yield
    finally:
        for name in names:
            if name in kept:
                setattr(owner, name, kept[name])
            elif name in vars(owner):
                delattr(owner, name)


def _nothing(*arguments: Any, **options: Any) -> None:
    del arguments, options


def _readable(owner: Any, name: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hasattr(owner, name)


SHIMS = (
    Shim(
        "`Config` and the metrics use names that numpy 2 has not: `np.float_ was removed`",
        _numpy_names,
    ),
    Shim("`Config` reads the host program's `sys.argv` as its own settings", _command_line),
    Shim("`Config` overwrites `CUDA_VISIBLE_DEVICES` with `gpu_id`", _visible_devices),
    Shim("`init_seed` reseeds the host and changes cuDNN's defaults", _random_state),
    Shim("`Config` adds a resolver to PyYAML's own FullLoader", _yaml_resolver),
    Shim("RecBole logs to the root logger and configures it", _root_logger),
    Shim("RecBole warns of its own pandas and torch calls", _warnings),
    Shim("every `Trainer` makes a folder `log_tensorboard` where it is run", _no_tensorboard),
    Shim("FEARec prints its sizes to standard output, where a caller's own results go", _no_prints),
)


class _Silent:
    """Stands in for a TensorBoard writer that nobody asked for."""

    def add_scalar(self, *arguments: Any, **options: Any) -> None:
        """Nothing."""

    def add_hparams(self, *arguments: Any, **options: Any) -> None:
        """Nothing."""
