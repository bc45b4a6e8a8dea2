"""The examples in docstrings run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGES = ("linkedout_lightning", "recbole_adapters")
ROOT = Path(__file__).parents[1]


def modules_with_examples() -> list[str]:
    """Names of the modules that hold a ``>>>``, found without importing any."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    found = [f for f in files if ">>> " in f.read_text(encoding="utf-8")]
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in found]
    return sorted(".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts)


def run_examples(module: ModuleType) -> tuple[int, list[str]]:
    """How many examples a module has, and reports of those that fail."""
    reports: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__):
        runner.run(test, out=reports.append)
    return runner.tries, reports


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        # Only what is installed by choice may be absent; a module of our own may not.
        absent = (getattr(error, "name", None) or "").partition(".")[0]
        if absent in PACKAGES or not absent:
            raise
        pytest.skip(f"{absent} is not installed")
    monkeypatch.chdir(tmp_path)
    tries, reports = run_examples(module)
    assert not reports, "\n".join(reports)
    assert tries, "the >>> is in no docstring"


def test_a_wrong_example_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        'class A:\n    def f(self):\n        """F.\n\n        >>> 1 + 1\n        3\n        """\n'
    )
    (tmp_path / "wrong_example.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    tries, reports = run_examples(importlib.import_module("wrong_example"))
    sys.modules.pop("wrong_example")
    assert tries == 1
    assert "Expected:\n    3\nGot:\n    2" in reports[0]
