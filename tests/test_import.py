"""What `import linkedout_lightning` costs and brings."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import linkedout_lightning

OPTIONAL = ("transformers", "av", "decord", "torchcodec", "recbole", "lance", "faiss", "matplotlib")


def modules_after(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in outcome.stdout.split()}


def test_import_pulls_in_no_optional_package() -> None:
    added = modules_after("import lightning, linkedout_lightning") - modules_after(
        "import lightning"
    )
    assert added.isdisjoint(OPTIONAL)


def test_core_names_pull_in_no_optional_package() -> None:
    names = "InteractionDataModule, SequentialRecommender, LinkedOutItemEncoder, IDItemEncoder"
    added = modules_after(
        f"import lightning\nfrom linkedout_lightning import {names}, FeatureStore"
    ) - modules_after("import lightning")
    assert added.isdisjoint(OPTIONAL)


@pytest.mark.parametrize("name", linkedout_lightning.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(linkedout_lightning, name) is not None
    assert name in dir(linkedout_lightning)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        importlib.import_module("linkedout_lightning").Nothing  # noqa: B018
