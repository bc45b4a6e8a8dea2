"""The results below a folder, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.files import read_json
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.study.parts import MAKERS, Part

FILE = "study.yaml"
"""Names the study: ``title``, ``introduction`` (paragraphs), ``parts`` (folder: heading)."""
_EVERY_RESULT_HAS = {"title", "simulated", "environment"}


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the page tells.

    Attributes:
        title: Of the page.
        introduction: Paragraphs at its head.
        parts: The results.
        simulated: Whether any of them is of simulated data.
    """

    title: str
    introduction: tuple[str, ...]
    parts: tuple[Part, ...]
    simulated: bool


def read_study(folder: Path) -> Study:
    """Every result of this package in a folder's folders.

    Args:
        folder: With a ``study.yaml``, which gives order and headings, or without one: then the
            results stand in the order in which they were finished.

    Raises:
        ConfigError: There is no result, a file is none, or ``study.yaml`` is not usable.
    """
    found = _results(folder)
    if not found:
        raise ConfigError(f"`path` is {str(folder)!r}, in which there is no {', '.join(MAKERS)}")
    about = _about(folder, found)
    parts = []
    for place, heading in about["parts"].items():
        file, document = found[place]
        parts.append(MAKERS[file.name](document, str(file.parent.relative_to(folder)), heading))
    return Study(
        title=about["title"],
        introduction=tuple(about["introduction"]),
        parts=tuple(parts),
        simulated=any(document["simulated"] for _, document in found.values()),
    )


def _results(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """File and content of each result by its folder; by its file where a folder holds several."""
    files = sorted(file for name in MAKERS for file in folder.rglob(name))
    folders = [file.parent for file in files]
    found = {}
    for file in files:
        document = read_json(file)
        if not isinstance(document, dict) or not document.keys() >= _EVERY_RESULT_HAS:
            raise ConfigError(
                f"{file} is no result of compare, ablate, tune or explain, or is damaged; make the "
                "result anew, or move the file elsewhere"
            )
        place = file.parent if folders.count(file.parent) == 1 else file
        found[str(place.relative_to(folder))] = file, document
    return found


def _about(folder: Path, found: Mapping[str, tuple[Path, Any]]) -> dict[str, Any]:
    """``study.yaml``, and what stands in for what it does not say."""
    given: Any = {}
    file = folder / FILE
    if file.is_file():
        import yaml

        try:
            given = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is no YAML: {error}") from error
    legal = {"title": str, "introduction": list, "parts": dict}
    wrong = not isinstance(given, dict) or any(
        name not in legal or not isinstance(value, legal[name]) for name, value in given.items()
    )
    if wrong:
        raise ConfigError(
            f"{file} holds {given!r:.200}; it may have `title` (a text), `introduction` (a list of "
            "texts) and `parts` (a folder: its heading)"
        )
    parts = {str(place): str(heading) for place, heading in given.get("parts", {}).items()}
    missing = [place for place in parts if place not in found]
    if missing:
        raise ConfigError(
            f"{file} names {missing[0]!r}, where there is no result; there are "
            f"{', '.join(sorted(found))}"
        )
    by_time = sorted(found, key=lambda place: found[place][1]["environment"]["finished"])
    return {
        "title": given.get("title", folder.resolve().name),
        "introduction": [str(text) for text in given.get("introduction", [])],
        "parts": parts
        | {place: found[place][1]["title"] for place in by_time if place not in parts},
    }
