"""``linkedout render``: the tables and pages of a result, made anew from its JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.files import read_json, write_text
from linkedout_lightning.errors import ConfigError

_PACKAGE = "linkedout_lightning."
_NAMES = ("results.json", "ablation.json", "tune.json")
_KINDS: dict[str, tuple[frozenset[str], str, str, str | None]] = {
    "tuning": (
        frozenset({"budget", "space", "trials", "chosen"}), "tune",
        "compare.tuning.markdown", None,
    ),
    "ablation": (
        frozenset({"axes", "empty_axes", "grid", "summary"}), "ablation",
        "compare.ablation.markdown", "compare.ablation.report",
    ),
    "comparison": (
        frozenset({"protocol", "encoders", "cells", "summary"}), "report",
        "compare.markdown", "compare.report",
    ),
}  # fmt: skip
"""What a kind of result has, its files' name, and the modules that write Markdown and HTML."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Make tables and pages from a result; nothing is trained or computed.

    A folder with several results below it becomes one page on them all, study.html; a study.yaml
    in it may give ``title``, ``introduction`` (paragraphs) and ``parts`` (a folder: its heading).

    Args:
        path: A results.json, ablation.json or tune.json, a folder that holds one, or a folder with
            several below it.
        out: Folder for the Markdown and the HTML; none given: the result's own.
        html: Write the HTML page, where this kind of result has one.
    """

    path: str
    out: str | None = None
    html: bool = True


class Rendered(dict[str, Any]):
    """Which files were written, by their names."""

    def summary(self) -> str:
        """The files, for a terminal."""
        return "\n".join(f"{name}: {path}" for name, path in self.items())


def render(config: RenderConfig, *, progress: bool = True) -> Rendered:
    """Write a result's Markdown and page anew.

    Args:
        config: The result.
        progress: Not used; every command has it.

    Raises:
        ConfigError: There is no such file, or it is no result of this package.
        MissingExtraError: The page is wanted and its packages are not installed.
    """
    del progress
    if _is_study(Path(config.path)):
        return _study(config)
    file = _result_in(Path(config.path))
    document = read_json(file)
    name, markdown, html = _kind(document, file)
    out = Path(config.out) if config.out is not None else file.parent
    out.mkdir(parents=True, exist_ok=True)
    written = Rendered()
    pages = {"md": (markdown, "render_markdown")}
    if html is not None and config.html:
        pages["html"] = (html, "render_html")
    for ending, (module, function) in pages.items():
        make: Callable[[Mapping[str, Any]], str] = getattr(
            import_module(_PACKAGE + module), function
        )
        target = out / f"{name}.{ending}"
        write_text(target, make(document))
        written[target.name] = str(target)
    return written


def _is_study(path: Path) -> bool:
    """Whether results lie below a folder and none in it."""
    inside = [path / name for name in (*_NAMES, "explain.json")]
    return (
        path.is_dir()
        and not any(file.is_file() for file in inside)
        and any(next(path.rglob(name), None) for name in _NAMES)
    )


def _study(config: RenderConfig) -> Rendered:
    from linkedout_lightning.study import read_study, render_html, render_markdown

    folder = Path(config.path)
    out = folder if config.out is None else Path(config.out)
    study = read_study(folder)
    out.mkdir(parents=True, exist_ok=True)
    written = Rendered()
    pages = {"study.md": render_markdown} | ({"study.html": render_html} if config.html else {})
    for name, make in pages.items():
        write_text(out / name, make(study))
        written[name] = str(out / name)
    return written


def _result_in(path: Path) -> Path:
    if path.is_file():
        return path
    names = _NAMES
    found = [path / name for name in names if (path / name).is_file()]
    if len(found) != 1:
        there = "holds " + " and ".join(f.name for f in found) if found else "holds none"
        raise ConfigError(
            f"`path` is {str(path)!r}; give one of {', '.join(names)}, or a folder with one of "
            f"them (it {there if path.is_dir() else 'is not there'})"
        )
    return found[0]


def _kind(document: Any, file: Path) -> tuple[str, str, str | None]:
    if isinstance(document, dict):
        for marks, name, markdown, html in _KINDS.values():
            if marks <= document.keys():
                return name, markdown, html
    raise ConfigError(
        f"`path` is {str(file)!r}, which is no result of compare, ablate or tune; for an "
        "explain.json take `linkedout explain --render`"
    )
