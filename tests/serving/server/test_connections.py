"""Slow clients, too many of them, videos in parts, and the end."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served_world import CLIP, TOKEN, Served


def _connect(server: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def _rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found


def _trickle(connection: socket.socket, end: threading.Event) -> None:
    while not end.wait(0.1):
        try:
            connection.sendall(b"x")
        except OSError:
            return


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"", b""),
        (b"POST /recommend HTTP/1.1\r\nhost: x\r\nslow: ", b"408"),
        (b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n", b"408"),
        (
            b"POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfff\r\n",
            b"408",
        ),
    ],
)
def test_who_sends_byte_by_byte_is_cut_off_and_nobody_else(
    strict: Served, start: bytes, status: bytes
) -> None:
    end = threading.Event()
    with _connect(strict) as connection, ThreadPoolExecutor(1) as pool:
        connection.sendall(start)
        if start:
            pool.submit(_trickle, connection, end)
        assert strict.recommend(["v001"]).status == 200  # meanwhile
        reply = _rest(connection)  # until the server ends it, with no help of the client's
        end.set()
    assert status in reply.split(b"\r\n")[0]
    assert strict.recommend(["v001"]).status == 200


def test_many_slow_clients_leave_room_for_others(strict: Served) -> None:
    slow = [_connect(strict) for _ in range(100)]
    for connection in slow:
        connection.sendall(b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
    assert strict.recommend(["v001"]).status == 200
    for connection in slow:
        assert b" 408 " in _rest(connection)
        connection.close()


def test_a_head_without_end(strict: Served) -> None:
    with _connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        try:
            for _ in range(400):
                connection.sendall(b"header: " + b"x" * 1000 + b"\r\n")
        except OSError:
            return  # closed while it was being sent
        reply = _rest(connection)
    assert reply == b"" or b" 431 " in reply


def test_what_is_no_http(strict: Served) -> None:
    for said in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"NO SUCH\r\n\r\n" * 10, b"\0" * 99):
        with _connect(strict) as connection:
            connection.sendall(said)
            reply = _rest(connection)
            assert reply == b"" or b" 400 " in reply or b" 408 " in reply
    assert strict.get("/healthz").status == 200


def test_a_client_that_reads_nothing_is_cut_off(strict: Served, folders: Path) -> None:
    (folders / "media" / "v009.mp4").write_bytes(b"\0" * 50_000_000)
    with _connect(strict) as connection:
        connection.sendall(b"GET /media/v009 HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(3)
        assert len(_rest(connection)) < 50_000_000


def test_two_requests_on_one_connection_after_a_refusal(strict: Served) -> None:
    with _connect(strict) as connection:
        body = json.dumps({"history": ["v001"]}).encode()
        head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        connection.sendall(head + b"content-length: 2\r\n\r\n{}")
        assert b" 422 " in connection.recv(65_536)
        last = head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        connection.sendall(last + body)
        assert b" 200 " in _rest(connection).split(b"\r\n")[0]


def test_too_many_at_once_are_told_to_come_again(strict: Served) -> None:
    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda _: strict.recommend(["v001"] * 500, 50), range(240)))
    statuses = [reply.status for reply in replies]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 2
    for reply in replies:
        if reply.status == 503:
            assert reply.headers["retry-after"] == "1"
    assert strict.recommend(["v001"]).status == 200


def test_clips_whole_and_in_parts(strict: Served) -> None:
    whole = strict.get("/media/v001")
    assert (whole.status, whole.body) == (200, CLIP)
    assert whole.headers["content-type"] == "video/mp4"
    part = strict.get("/media/v001", headers={"range": "bytes=100-199"})
    assert (part.status, part.body) == (206, CLIP[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(CLIP)}"
    end = strict.get("/media/v001", headers={"range": "bytes=-5"})
    assert (end.status, end.body) == (206, CLIP[-5:])
    for wrong in ("bytes=999999-", "bytes=5-2", "nonsense", "bytes=" + "0-1," * 500 + "0-1"):
        assert strict.get("/media/v001", headers={"range": wrong}).status in (200, 206, 400, 416)
    found = strict.get("/items/v001").json["clip"]
    assert found == {"address": "media/v001", "type": "video/mp4"}


@pytest.mark.parametrize(
    "path",
    [
        "../secret", "%2e%2e/secret", "..%2fsecret", "%2e%2e%2fsecret", "....//secret",
        "..%5csecret", "/etc/passwd", "%2fetc%2fpasswd", "v002", ".hidden", "v001%00", "v001.mp4",
        "", ".", "%ff%fe", "x" * 5000,
    ],
)  # fmt: skip
def test_clips_from_outside_the_folder(strict: Served, path: str) -> None:
    with _connect(strict) as connection:  # as it stands: a client's library would tidy it up
        connection.sendall(
            f"GET /media/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
        )
        reply = _rest(connection)
    assert reply.split(b" ")[1] in (b"404", b"400")
    assert b"between us" not in reply


@pytest.mark.parametrize(
    "video", ["../secret.mp4", "v002.mp4", "/etc/passwd", ".", "nothing", "\0"]
)
def test_videos_from_outside_the_folder(strict: Served, video: str) -> None:
    reply = strict.post("/items", {"items": [{"id": "n", "video": video}]}, token=TOKEN)
    assert (reply.status, "folder of videos" in reply.json["detail"]) == (422, True)


def test_a_video_for_a_model_that_reads_none(strict: Served) -> None:
    reply = strict.post("/items", {"items": [{"id": "n", "video": "v001.mp4"}]}, token=TOKEN)
    assert reply.status == 422


def test_without_a_token_nothing_changes_and_open_requests_are_answered_before_the_end(
    folders: Path,
) -> None:
    server = Served("--bundle", str(folders / "bundles" / "id"), "--quiet", token=None)
    for refused in (
        server.post("/items", {"items": [{"id": "n", "vector": [0.0] * 16}]}, token="None"),
        server.ask("DELETE", "/items/v001"),
        server.post("/swap", {}, token=""),
    ):
        assert (refused.status, "without a token" in refused.json["detail"]) == (403, True)
    body = json.dumps({"history": ["v001"], "k": 3}).encode()
    head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with _connect(server) as connection, _connect(server) as idle:
        connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body[:10])
        time.sleep(0.3)  # the server has begun to read it
        server.process.terminate()
        time.sleep(0.5)
        with pytest.raises(OSError):
            _connect(server)
        connection.sendall(body[10:])
        reply = _rest(connection)
        assert _rest(idle) == b""
    assert b" 200 " in reply.split(b"\r\n")[0]
    assert len(json.loads(reply.partition(b"\r\n\r\n")[2])["items"]) == 3
    assert server.end() == 0
    assert "stopped after" in "".join(server.lines)
