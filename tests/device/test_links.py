""".link files: written, read, and followed to a server on this computer."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import threading

import pytest

from weft.config import load_overlay
from weft.device import bitfile
from weft.errors import DeviceError, UsageError, WeftError
from weft.overlays import links

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()
OVERLAY = load_overlay("tiny")
NAME = bitfile.file_name(OVERLAY)


class Handler(http.server.BaseHTTPRequestHandler):
    """/whole is CONTENT, /short announces it and breaks off, /moved leads to a local file."""

    def do_GET(self):
        if self.path not in ("/whole", "/short", "/moved"):
            self.send_error(404, "Not here")
            return
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Location", "file:///etc/hostname")
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[:100_000])

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """A proxy of the network outside does not know servers on this computer."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def link(folder, url, md5=MD5, name=f"{NAME}.link", board="KV260"):
    return links.write(folder / name, {board: (url, md5)})


def test_what_is_written_is_read(tmp_path):
    sources = {"KV260": ("https://a.org/k.bit", MD5), "Pynq-Z2": ("http://a.org/z.bit", MD5[::-1])}
    path = links.write(tmp_path / "a.bit.link", sources)
    assert links.read(path) == sources
    assert json.loads(path.read_text())["Pynq-Z2"] == {
        "url": "http://a.org/z.bit",
        "md5sum": MD5[::-1],
    }


def test_pynq_reads_it_too(tmp_path):
    resolve = pytest.importorskip("pynqutils.setup_utils.deliver_notebooks")
    expected = {"url": "https://a.org/k.bit", "md5sum": MD5}
    for board in ("KV260", links.ANY):
        path = link(tmp_path, "https://a.org/k.bit", board=board)
        assert resolve._find_remote_overlay_res("KV260", str(path)) == expected


def test_downloads_to_the_folder(tmp_path, url):
    (tmp_path / "to").mkdir()
    got = links.fetch(link(tmp_path, f"{url}/whole", MD5.upper()), "KV260", tmp_path / "to")
    assert got == tmp_path / "to" / NAME
    assert got.read_bytes() == CONTENT
    assert list((tmp_path / "to").iterdir()) == [got]


def test_a_source_for_every_board(tmp_path, url):
    path = link(tmp_path, f"{url}/whole", board=links.ANY)
    assert links.read(path) == {links.ANY: (f"{url}/whole", MD5)}
    assert links.fetch(path, "Ultra96-V2", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "md5", "message"),
    [
        ("whole", "0" * 32, f"MD5 is {MD5}, .* says 0000"),
        ("short", MD5, "broke off|IncompleteRead"),
        ("moved", MD5, "302"),
        ("none", MD5, "answers 404 Not here"),
    ],
)
def test_a_bad_download_leaves_nothing_and_keeps_what_was_there(tmp_path, url, page, md5, message):
    path = link(tmp_path, f"{url}/{page}", md5)
    folder = tmp_path / "to"
    folder.mkdir()
    with pytest.raises(DeviceError, match=message):
        links.fetch(path, "KV260", folder)
    assert not list(folder.iterdir())
    (folder / NAME).write_bytes(b"old")
    with pytest.raises(DeviceError, match=message):
        links.fetch(path, "KV260", folder)
    assert [p.read_bytes() for p in folder.iterdir()] == [b"old"]


def test_no_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    path = link(tmp_path, f"http://127.0.0.1:{port}/a.bit")
    with pytest.raises(DeviceError, match=r"can't be downloaded .*copy the file to the board"):
        links.fetch(path, "KV260", tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_silence_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = link(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/a.bit")
        with pytest.raises(DeviceError, match="timed out"):
            links.fetch(path, "KV260", tmp_path)


def test_unknown_board(tmp_path):
    path = link(tmp_path, "https://a.org/a.bit")
    with pytest.raises(UsageError, match=r"no board 'KV206'\. Did you mean 'KV260'"):
        links.fetch(path, "KV206", tmp_path)


def test_a_folder_that_is_not_there(tmp_path, url):
    with pytest.raises(WeftError, match="does not exist"):
        links.fetch(link(tmp_path, f"{url}/whole"), "KV260", tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ("\xff", "JSON"),
        ("[" * 100_000, "JSON"),
        ("{}", "expected"),
        ("[1]", "expected"),
        ('{"KV260": 1}', "KV260: expected a url"),
        ('{"KV260": {"url": "https://a.org/a"}}', "KV260: expected a url and an md5sum"),
        ('{"A": {"url": "file:///etc/passwd", "md5sum": "12"}}', "only http"),
        ('{"url": "https://a.org/a", "md5sum": "12"}', "every board: md5sum '12'"),
    ],
)
def test_what_is_no_link_is_refused(tmp_path, text, message):
    path = tmp_path / "a.bit.link"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DeviceError, match=message):
        links.read(path)
    with pytest.raises(DeviceError, match="No such file"):
        links.read(tmp_path / "none.link")


def test_what_could_not_be_read_is_not_written(tmp_path):
    good = ("https://a.org/a", MD5)
    for name, sources in (
        ("a.bit", {"KV260": good}),
        ("a.bit.link", {}),
        ("a.bit.link", {"KV260": good, links.ANY: good}),
        ("a.bit.link", {"KV260": ("ftp://a.org/a", MD5)}),
        ("a.bit.link", {"KV260": ("https://a.org/a", MD5[1:])}),
    ):
        with pytest.raises(UsageError):
            links.write(tmp_path / name, sources)
    assert not list(tmp_path.iterdir())


class TestFind:
    """bitfile.find follows links where there is no bitstream."""

    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WEFT_BITSTREAMS", str(tmp_path))
        monkeypatch.setenv("BOARD", "KV260")
        monkeypatch.chdir(tmp_path)

    def handoff(self, tmp_path, url):
        return link(tmp_path, f"{url}/whole", name=NAME.replace(".bit", ".hwh.link"))

    def test_both_files_come(self, tmp_path, url):
        link(tmp_path, f"{url}/whole")
        self.handoff(tmp_path, url)
        path = bitfile.find(OVERLAY)
        assert path == tmp_path / NAME
        assert path.read_bytes() == path.with_suffix(".hwh").read_bytes() == CONTENT

    def test_a_bitstream_that_is_there_is_taken(self, tmp_path):
        link(tmp_path, "http://127.0.0.1:9/none")
        (tmp_path / NAME).write_bytes(b"here")
        assert bitfile.find(OVERLAY).read_bytes() == b"here"

    def test_half_is_not_left(self, tmp_path, url):
        kept = {link(tmp_path, f"{url}/none"), self.handoff(tmp_path, url)}
        with pytest.raises(DeviceError, match="404"):
            bitfile.find(OVERLAY)
        assert set(tmp_path.iterdir()) == kept

    def test_which_board(self, tmp_path, url, monkeypatch):
        monkeypatch.delenv("BOARD")
        link(tmp_path, f"{url}/whole")
        with pytest.raises(DeviceError, match=r"for which board.* BOARD to one of KV260"):
            bitfile.find(OVERLAY)
        link(tmp_path, f"{url}/whole", board=links.ANY)
        assert bitfile.find(OVERLAY).read_bytes() == CONTENT
