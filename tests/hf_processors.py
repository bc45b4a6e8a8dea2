"""Lets the tests load Hugging Face's video processors beside a CPU build of torch.

Those processors import torchvision, of which they use only transforms written in Python. The
registry's torchvision is built for CUDA: beside a CPU build of torch it fails at import, as its
operators cannot be registered, and it would take ``import lightning`` with it (torchmetrics imports
torchvision where it finds it). So it lives outside of the environment's packages, in
``.venv/share/hf-processors``, and an import hook of this process alone finds it there, after having
declared the operators. Processes that tests start do not have the hook, whichever way they start;
an environment with a matching torchvision of its own never gets to it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType

FOLDER = Path(sys.prefix) / "share" / "hf-processors"
_PACKAGES = ("torchvision", "num2words", "docopt", "timm")


class _Finder(DistributionFinder):
    """Finds the packages of the folder, and what importlib.metadata knows of them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _PACKAGES:
            return None  # their submodules are found by their own paths
        spec = PathFinder.find_spec(name, [str(FOLDER)], target)
        if name == "torchvision" and spec is not None:
            _declare_operators()
        return spec

    def find_distributions(
        self,
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008
    ) -> Iterable[Distribution]:
        if context.name is not None and context.name not in _PACKAGES:
            return ()
        inside = DistributionFinder.Context(name=context.name, path=[str(FOLDER)])
        return PathFinder.find_distributions(inside)


_library = None


def _of_another_build() -> bool:
    """Whether the folder's torchvision is built for CUDA and torch is not.

    A pair that matches registers the operators itself, and ends the process if they are there.
    """
    import torch

    version = (FOLDER / "torchvision" / "version.py").read_text(encoding="utf-8")
    # `cuda` itself is computed by the operators that are missing; the version names the build.
    built = re.search(r"^__version__ = ['\"][^'\"]*\+cu", version, re.MULTILINE)
    return built is not None and torch.version.cuda is None


def _declare_operators() -> None:
    global _library
    if _library is not None or not _of_another_build():
        return
    import torch

    _library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def install() -> None:
    """Let this process import the packages of the folder, if it is there."""
    if FOLDER.is_dir() and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def missing() -> str | None:
    """What to do if a package cannot be found; ``None`` if all can."""
    from importlib.util import find_spec

    absent = [name for name in _PACKAGES if find_spec(name) is None]
    if not absent:
        return None
    return (
        f"Hugging Face's video processors need {', '.join(absent)}: run `make setup`, which puts "
        f"them into {FOLDER}"
    )
