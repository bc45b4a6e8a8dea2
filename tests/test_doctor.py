"""The diagnosis of RecBole's surroundings, with the versions made up."""

from __future__ import annotations

import pytest

from linkedout_lightning import doctor
from recbole_adapters.compat import NEEDS, RECBOLE

FIT = dict.fromkeys(NEEDS, "1.0") | {"recbole": RECBOLE, "pandas": "2.3.3"}


def of_recbole(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> dict[str, str]:
    monkeypatch.setattr(doctor, "_version", installed.get)
    return {finding.part: finding.status for finding in doctor._recbole()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"recbole": "ok", "pandas": "ok"}),
        ({"recbole": None}, {"recbole": "missing"}),
        ({"recbole": "1.1.1"}, {"recbole": "wrong", "pandas": "ok"}),
        ({"texttable": None}, {"recbole": "wrong", "pandas": "ok"}),
        ({"pandas": "3.0.1"}, {"recbole": "ok", "pandas": "wrong"}),
    ],
)
def test_recbole_is_judged_with_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None], expected: dict[str, str]
) -> None:
    installed = {name: value for name, value in (FIT | change).items() if value}
    assert of_recbole(monkeypatch, installed) == expected


def test_every_fault_comes_with_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", (FIT | {"pandas": "3.0.1", "recbole": "1.0"}).get)
    found = list(doctor._recbole())
    assert len(found) == 2
    assert all(finding.cure.startswith("pip install") for finding in found)
