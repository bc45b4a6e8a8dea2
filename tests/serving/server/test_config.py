"""What `linkedout serve` says of what it cannot do; exit code 2 each."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from linkedout_lightning.cli import main
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.serving.server import ServeConfig
from linkedout_lightning.serving.server.config import named_bundles, read_token


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("runs/demo/bundle",), {"bundle": "runs/demo/bundle"}),
        (("a=x", "b=y=z"), {"a": "x", "b": "y=z"}),
        (("runs/a=b",), {"a=b": "runs/a=b"}),
        (("linkedout=/x y",), {"linkedout": "/x y"}),
    ],
)
def test_bundles_by_name(given: tuple[str, ...], expected: dict[str, str]) -> None:
    assert named_bundles(given) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bundle": ()}, "`bundle` is empty"),
        ({"bundle": ("a/x", "b/x")}, "'x' twice"),
        ({"port": 70_000}, "`port` is 70000"),
        ({"max_k": 0}, "`max_k` is 0"),
        ({"batch": -1}, "`batch` is -1"),
        ({"max_body_mb": 0.0}, "`max_body_mb` is 0.0"),
        ({"request_timeout": float("nan")}, "`request_timeout` is nan"),
        ({"threads": 0}, "`threads` is 0"),
        ({"media": "no/such"}, "`media` is 'no/such'"),
    ],
)
def test_values_that_cannot_be(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        ServeConfig(**{"bundle": ("x",), **options})  # type: ignore[arg-type]
    assert words in str(error.value)


@pytest.mark.parametrize("token", ["", "short", "with a space in the middle", "ümläutübermäßigä"])
def test_tokens_that_cannot_be(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(ConfigError, match="the token in") as error:
        read_token(ServeConfig(bundle=("x",), token_file=str(tmp_path / "token")))
    assert token not in str(error.value) or len(token) < 6


def test_where_the_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINKEDOUT_TOKEN", raising=False)
    assert read_token(ServeConfig(bundle=("x",))) is None
    monkeypatch.setenv("LINKEDOUT_TOKEN", "of-the-environment")
    assert read_token(ServeConfig(bundle=("x",))) == "of-the-environment"
    (tmp_path / "token").write_text("of-the-file-itself\n")
    config = ServeConfig(bundle=("x",), token_file=str(tmp_path / "token"))
    assert read_token(config) == "of-the-file-itself"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_token(ServeConfig(bundle=("x",), token_file=str(tmp_path / "nothing")))


def test_no_bundle_and_no_port(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path / "nothing"), "--port", "0"]) == 2
    assert "is no bundle" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", str(bundles / "id"), "--port", port]) == 2
    assert f"`port` {port}" in capsys.readouterr().err
    assert main(["serve", str(bundles / "id"), "--host", "no.such.host.invalid"]) == 2
    assert "`host` is 'no.such.host.invalid'" in capsys.readouterr().err


def test_without_the_packages_of_the_extra(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    assert main(["serve", str(bundles / "id")]) == 2
    assert "linkedout-lightning[serve]" in capsys.readouterr().err
