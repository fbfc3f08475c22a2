"""Downloads against a server on loopback that serves, fails, stalls, lies and truncates."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from utils.data import downloads
from utils.data.downloads import download
from utils.errors import UserError

CONTENT = b"the real file" * 1000


class Handler(BaseHTTPRequestHandler):
    visits: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.visits.append(self.path)
        if self.path == "/missing" or (self.path == "/flaky" and self.visits.count("/flaky") == 1):
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/stalls":
            self.wfile.write(CONTENT[:100])
            self.wfile.flush()
            time.sleep(1.5)
        elif self.path == "/truncated":
            self.wfile.write(CONTENT[:5000])
        elif self.path == "/wrong":
            self.wfile.write(CONTENT[::-1])
        else:
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.visits = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def check(path: Path) -> None:
    if path.read_bytes() != CONTENT:
        raise UserError(f"{path}: not the real file")


def test_delivers_under_the_final_name_alone(server: str, tmp_path: Path) -> None:
    path = download([f"{server}/good"], tmp_path / "new" / "file.bin", check, "it by --mnist")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("first", ["missing", "stalls", "truncated", "wrong"])
def test_goes_on_to_the_next_mirror(
    server: str, tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    urls = [f"{server}/{first}", f"{server}/good"]
    path = download(urls, tmp_path / "file.bin", check, "it by --mnist")
    assert path.read_bytes() == CONTENT
    assert Handler.visits == [f"/{first}", f"/{first}", "/good"]


def test_tries_again(server: str, tmp_path: Path) -> None:
    download([f"{server}/flaky"], tmp_path / "file.bin", check, "it by --mnist")
    assert Handler.visits == ["/flaky", "/flaky"]


def test_failure_names_every_address_and_leaves_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    urls = [f"{server}/{name}" for name in ("missing", "truncated", "wrong")]
    urls.append("http://127.0.0.1:9/no-network")
    with pytest.raises(UserError, match=r"name it by --mnist; .*--embedded") as caught:
        download(urls, tmp_path / "file.bin", check, "it by --mnist")
    assert all(url in str(caught.value) for url in urls)
    assert "not the real file" in str(caught.value)
    assert "no-network (not reached: ConnectionError)" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_earlier_file(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"earlier")
    with pytest.raises(UserError):
        download([f"{server}/wrong"], tmp_path / "file.bin", check, "it by --mnist")
    assert (tmp_path / "file.bin").read_bytes() == b"earlier"
