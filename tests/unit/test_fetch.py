"""Downloads: once, checked, and nothing kept that is wrong."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.errors import fails
from helpers.records import zsre_records
from helpers.tiny import tiny_facts

from edit_robust.tasks.fetch import fetch, file_sha256
from edit_robust.tasks.language import counterfact, zsre
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.zsre import Zsre


class _Server(http.server.BaseHTTPRequestHandler):
    body = b""
    announced: int | None = None
    hits = 0

    def do_GET(self) -> None:
        type(self).hits += 1
        if self.path == "/absent.json":
            self.send_error(404)
            return
        self.send_response(200)
        if self.announced != -1:
            self.send_header("Content-Length", str(len(self.body) if self.announced is None else self.announced))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Server]]]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (_Server,), {"body": json.dumps(tiny_facts(3)).encode()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", handler
        httpd.shutdown()
        thread.join()


def test_fetch_downloads_once_and_checks(tmp_path: Path, server: tuple[str, type[_Server]]) -> None:
    url, handler = server
    dest = tmp_path / "deep" / "cf.json"
    assert fetch(f"{url}/cf.json", dest) == dest
    assert dest.read_bytes() == handler.body
    digest = hashlib.sha256(handler.body).hexdigest()
    note = dest.with_name("cf.json.sha256")
    assert note.read_text() == f"{digest}  cf.json\n" and file_sha256(dest) == digest
    fetch(f"{url}/cf.json", dest)
    fetch(f"{url}/cf.json", dest, sha256=digest.upper())
    assert handler.hits == 1
    fails("not the file that was downloaded & delete it", lambda: fetch(url, dest, sha256="0" * 64))

    dest.write_bytes(b"changed")
    fails("cf.json is not the file that was downloaded", lambda: fetch(f"{url}/cf.json", dest))
    note.unlink()  # a file put there by hand is trusted from then on
    fetch(f"{url}/cf.json", dest)
    assert note.is_file() and dest.read_bytes() == b"changed"


def test_fetch_keeps_nothing_that_is_wrong(tmp_path: Path, server: tuple[str, type[_Server]]) -> None:
    url, handler = server
    dest = tmp_path / "cf.json"
    fails("SHA-256 & expected 000000000000", lambda: fetch(f"{url}/cf.json", dest, sha256="0" * 64))
    fails("404 & task.path=FILE & absent.json", lambda: fetch(f"{url}/absent.json", dest))
    handler.announced = len(handler.body) + 10
    fails("the connection broke after", lambda: fetch(f"{url}/cf.json", dest, timeout=5))
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []
    handler.announced = -1  # no length announced: nothing to compare with
    assert fetch(f"{url}/cf.json", dest).read_bytes() == handler.body


def test_fetch_without_a_network(tmp_path: Path) -> None:
    fails(
        "http://127.0.0.1:9/x.json & task.corpus_path=FILE",
        lambda: fetch("http://127.0.0.1:9/x.json", tmp_path / "x.json", option="task.corpus_path"),
    )
    fails("cannot download", lambda: fetch("no address", tmp_path / "x.json"))


def test_tasks_download_without_a_path(
    tmp_path: Path, server: tuple[str, type[_Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    for task, name in ((counterfact, "counterfact"), (zsre, "zsre_mend_eval")):
        monkeypatch.setattr(task, "URL", f"{url}/{name}.json")
    fails("SHA-256 & expected d01705612517", lambda: Counterfact(cache_dir=str(tmp_path)).requests())
    fails("SHA-256 & expected 8a371d512f8a", lambda: Zsre(cache_dir=str(tmp_path)).requests())
    assert not list(tmp_path.glob("*.json")), "what is not the published file is not kept"

    monkeypatch.setattr(counterfact, "SHA256", hashlib.sha256(handler.body).hexdigest())
    assert len(Counterfact(cache_dir=str(tmp_path)).requests()) == 3
    handler.body = json.dumps(zsre_records(2)).encode()
    monkeypatch.setattr(zsre, "SHA256", hashlib.sha256(handler.body).hexdigest())
    assert len(Zsre(cache_dir=str(tmp_path)).requests()) == 2
    assert len(Counterfact(cache_dir=str(tmp_path)).requests()) == 3
    assert handler.hits == 4
