"""The command line as a stranger meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from linkedout_lightning import cli
from linkedout_lightning.typed import in_the_shell_s_way


def linkedout(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "linkedout_lightning.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_overview_names_every_command() -> None:
    outcome = linkedout("--help")
    assert outcome.returncode == 0
    assert all(name in outcome.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_documents_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert cli.COMMANDS[name].summary in " ".join(printed.split())
    undocumented = re.findall(r"--(\w+) \S+\s+\(type:", printed)
    assert not undocumented


def test_unknown_command_names_the_known_ones() -> None:
    outcome = linkedout("extrakt")
    assert outcome.returncode == cli.EXIT_USAGE
    assert "'extrakt' is not a command" in outcome.stderr
    assert "extract" in outcome.stderr


def test_doctor_as_json() -> None:
    outcome = linkedout("doctor", "--json")
    assert outcome.returncode == 0, outcome.stdout
    findings = {finding["part"]: finding for finding in json.loads(outcome.stdout)["findings"]}
    assert findings["torch"]["status"] == "ok"


def test_inspect_of_nothing_is_one_sentence() -> None:
    outcome = linkedout("inspect", "no/such/folder")
    assert outcome.returncode == cli.EXIT_USAGE
    assert "no such file or folder" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_inspect_of_an_ordinary_folder_names_it(tmp_path: Path) -> None:
    outcome = linkedout("inspect", str(tmp_path))
    assert outcome.returncode == cli.EXIT_USAGE
    assert str(tmp_path) in outcome.stderr
    assert "Traceback" not in outcome.stderr


@dataclass(frozen=True)
class Options:
    seeds: tuple[int, ...]
    layers: tuple[int, ...] | int | str
    name: str = ""
    retry_failed: bool = False


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--seeds", "0", "1"], ["--seeds=[0,1]"]),
        (["--seeds", "0,1"], ["--seeds=[0,1]"]),
        (["--seeds", "3"], ["--seeds=[3]"]),
        (["--seeds=[0,1]"], ["--seeds=[0,1]"]),
        (["--seeds", "0", "--name", "x", "--seeds=1,2"], ["--seeds=[0,1,2]", "--name", "x"]),
        (["--seeds=[0,1]", "--seeds=[2]"], ["--seeds=[2]"]),
        (["--layers", "all"], ["--layers=all"]),
        (["--layers", "4", "-1"], ["--layers=[4,-1]"]),
        (["--layers", "-1", "--name", "x"], ["--layers=-1", "--name", "x"]),
        (["--retry-failed"], ["--retry_failed=true"]),
        (["--retry-failed", "false"], ["--retry_failed", "false"]),
        (["--name=a-b", "--quiet"], ["--name=a-b", "--quiet"]),
    ],
)
def test_tuples_in_the_shell_s_way(given: list[str], expected: list[str]) -> None:
    assert in_the_shell_s_way(given, Options) == expected
