"""Corpora: downloads over loopback, what counts as text, and the standard library as one text."""

import gc
import hashlib
import http.server
import io
import itertools
import os
import re
import sys
import threading
from pathlib import Path

import pytest

from experiments.data import corpora
from experiments.data.corpora import RemoteFile, fetch, load_text, read_text, standard_library

# A download that fails keeps its socket until it is collected: pooch does not close it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CONTENT = "To be, or not to be — that is the question.\n".encode() * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves files of a few bytes on loopback, and remembers what it was asked for."""

    def __init__(self):
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                found = self.path in ("/whole", "/cut")
                self.send_response(200 if found else 404)
                self.send_header("Content-Length", str(len(CONTENT) if found else 0))
                self.end_headers()
                if found:
                    self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[:50])

            def log_message(self, *_):
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def remote(self, path: str = "/whole", sha256: str = DIGEST) -> RemoteFile:
        return RemoteFile("play.txt", f"http://127.0.0.1:{self._server.server_port}{path}", sha256)

    def stop(self):
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()
    gc.collect(1)  # those sockets, before they warn in another test


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """An empty data directory."""
    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "data"


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_fetch_downloads_once_and_never_again(data, server):
    for _ in range(3):
        path = fetch("hamlet", server.remote())
        assert path == data / "hamlet" / "play.txt"
        assert path.read_bytes() == CONTENT
    assert server.asked == ["/whole"]
    server.stop()
    assert fetch("hamlet", server.remote()).read_bytes() == CONTENT
    assert files(data) == ["hamlet/play.txt"]


def test_a_file_put_there_by_hand_is_taken(data, server):
    (data / "hamlet").mkdir(parents=True)
    (data / "hamlet" / "play.txt").write_bytes(CONTENT)
    assert fetch("hamlet", server.remote()) == data / "hamlet" / "play.txt"
    assert server.asked == []


def test_a_download_of_other_bytes_is_refused_and_removed(data, server):
    with pytest.raises(
        ValueError, match=rf"(?i)sha256 .*play\.txt.* expected sha256:{'0' * 64} but got {DIGEST}"
    ):
        fetch("hamlet", server.remote(sha256="0" * 64))
    assert files(data) == []


def test_a_file_of_other_bytes_is_refused_and_left_alone(data, server):
    (data / "hamlet").mkdir(parents=True)
    path = data / "hamlet" / "play.txt"
    path.write_bytes(b"edited")
    digest = hashlib.sha256(b"edited").hexdigest()
    with pytest.raises(ValueError, match=rf"play\.txt has SHA-256 {digest}, expected {DIGEST}; remove it"):
        fetch("hamlet", server.remote())
    assert path.read_bytes() == b"edited"
    assert server.asked == []


def test_the_digest_may_be_md5(data, server):
    """Where nobody publishes another: the right bytes are taken, downloaded or not, others refused."""
    remote = server.remote()._replace(digest=hashlib.md5(CONTENT).hexdigest(), algorithm="md5")
    for _ in range(2):
        assert fetch("hamlet", remote).read_bytes() == CONTENT
    assert server.asked == ["/whole"]
    (data / "hamlet" / "play.txt").write_bytes(b"edited")
    digest = hashlib.md5(b"edited").hexdigest()
    with pytest.raises(ValueError, match=rf"play\.txt has MD5 {digest}, expected {remote.digest}; remove"):
        fetch("hamlet", remote)
    (data / "hamlet" / "play.txt").unlink()
    with pytest.raises(ValueError, match=rf"(?i)md5 .*play\.txt.* but got {remote.digest}"):
        fetch("hamlet", remote._replace(digest="0" * 32))


@pytest.mark.parametrize("failure", ["no network", "/absent", "/cut"])
@pytest.mark.slow
def test_a_download_that_fails_says_where_to_put_the_file(data, server, failure):
    remote = server.remote("/whole" if failure == "no network" else failure)
    if failure == "no network":
        server.stop()
    with pytest.raises(ValueError, match="hamlet is not in the data directory") as caught:
        fetch("hamlet", remote)
    message = str(caught.value)
    assert remote.url in message
    assert f"Put the file at {data / 'hamlet' / 'play.txt'}, or set JAXRNN_DATA" in message
    assert files(data) == []


def test_the_data_directory_may_start_with_the_home_directory(tmp_path, monkeypatch, server):
    """Where no shell has replaced the tilde: a container's settings, say."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("JAXRNN_DATA", "~/sets")
    assert fetch("hamlet", server.remote()) == tmp_path / "sets" / "hamlet" / "play.txt"


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_users_cache_folder(monkeypatch, value):
    monkeypatch.delenv("JAXRNN_DATA")
    if value is not None:
        monkeypatch.setenv("JAXRNN_DATA", value)
    path = corpora.data_directory()
    assert path.is_absolute()
    assert "jaxrnn" in path.parts


def test_load_text_fetches_a_named_corpus(monkeypatch, server):
    monkeypatch.setattr(corpora, "CORPORA", {"hamlet": server.remote()})
    assert load_text("hamlet") == CONTENT.decode()


def test_load_text_reads_a_file(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("naïve 😀\n".encode())
    assert load_text(str(path)) == "naïve 😀\n"


@pytest.fixture(params=["file", "pipe", "standard input"])
def reader(request, tmp_path, monkeypatch):
    """Every way by which bytes reach a command, given the bytes: what ``read_text`` makes of them."""

    def read(content: bytes, **options):
        path = None if request.param == "standard input" else tmp_path / "text"
        if request.param == "file":
            path.write_bytes(content)
        elif request.param == "pipe":
            os.mkfifo(path)
            writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
            writer.start()
        else:  # in the C locale, say
            stream = io.TextIOWrapper(io.BytesIO(content), encoding="latin-1")
            monkeypatch.setattr(sys, "stdin", stream)
        return read_text(path, **options)

    return read


def test_line_ends_and_byte_order_mark(reader):
    text = reader(b"\xef\xbb\xbfone\r\ntwo\rthree\n\xef\xbb\xbf")
    assert text == "one\ntwo\nthree\n\ufeff"  # only the leading mark is no text


def test_line_ends_as_they_are(reader):
    assert reader("é\r\ntwo\rthree\n".encode(), newline="") == "é\r\ntwo\rthree\n"


def test_closed_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input cannot be read: it is closed"):
        read_text(None)


def test_load_text_reads_a_pipe_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(b"naive\n",), daemon=True).start()
    assert load_text(str(path)) == "naive\n"


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    known = "stdlib, tiny_shakespeare, war_and_peace"
    for name in ("shakespeare", str(tmp_path / "missing"), str(tmp_path)):
        message = f"corpus {name!r} is neither a file nor one of {known}"
        with pytest.raises(ValueError, match=re.escape(message)):
            load_text(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"abc\xff\xfe", "is not UTF-8 text: invalid start byte at byte 3"),
        (b"\xef\xbb\xbfabc\xff", "is not UTF-8 text: invalid start byte at byte 6"),
        ("é".encode()[:1], "is not UTF-8 text: unexpected end of data at byte 0"),
        (b"abc\0def", "is not text: it holds a zero byte at character 3"),
        ("abc".encode("utf-16"), "is UTF-16 text, expected UTF-8"),
        ("abc".encode("utf-32"), "is UTF-32 text, expected UTF-8"),
        ("\ufeffabc".encode("utf-32-be"), "is UTF-32 text, expected UTF-8"),
        ("abc".encode("utf-16-le"), "is not text: it holds a zero byte at character 1"),
    ],
)
def test_what_is_no_text(reader, content, message):
    with pytest.raises(ValueError, match=f"(text|standard input) {message}$"):
        reader(content)


def test_read_text_of_no_file(tmp_path):
    with pytest.raises(ValueError, match="missing cannot be read: No such file"):
        read_text(tmp_path / "missing")
    with pytest.raises(ValueError, match="cannot be read: "):
        read_text(tmp_path)


# By the SHA-256 of the names, computed elsewhere; another order would be another corpus.
ORDER = ["zlib.py", "json/encoder.py", "json/decoder.py", "email/mime/text.py", "abc.py", "os.py"]


def make_library(root: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def titled(names, body="") -> dict[str, bytes]:
    return {name: f"# {name}\n{body}".encode() for name in names}


def titles(text: str) -> list[str]:
    return [line[2:] for line in text.splitlines() if line.startswith("# ")]


def test_library_order_comes_from_names_alone(tmp_path):
    for i, (names, body) in enumerate(itertools.product([ORDER, ORDER[::-1]], ["", "import this\n"])):
        library = make_library(tmp_path / str(i), titled(names, body))
        assert titles(standard_library(library)) == ORDER


def test_library_files_are_whole_and_apart(tmp_path):
    library = make_library(tmp_path, {"a.py": b"x = 1\r\ny = 2", "b.py": b"z = 3\n"})
    assert standard_library(library) in ("x = 1\ny = 2\nz = 3\n", "z = 3\n\nx = 1\ny = 2")


def test_library_leaves_out_tests_packages_and_other_alphabets(tmp_path):
    left_out = [
        "site-packages/numpy/core.py",
        "dist-packages/six.py",
        "test/test_os.py",
        "json/tests/test_json.py",
        "idlelib/idle_test/htest.py",
        "__pycache__/os.py",
        "notes.txt",
    ]
    kept = [*ORDER, "test.py", "testing/tools.py", "latest/tests.py"]
    library = make_library(
        tmp_path, {**titled(left_out + kept), "latin.py": b"# \xe9\n", "greek.py": "# π\n".encode()}
    )
    assert sorted(titles(standard_library(library))) == sorted(kept)


def test_a_library_without_sources(tmp_path):
    make_library(tmp_path, {"test/test_os.py": b"pass\n", "os.pyc": b"\0"})
    with pytest.raises(ValueError, match=r"no library sources under .*; name a corpus or a text file"):
        standard_library(tmp_path)


@pytest.mark.slow
def test_the_running_pythons_library():
    text = load_text("stdlib")
    assert 5_000_000 < len(text) < 20_000_000
    assert text.isascii()
    assert "\r\n" not in text
    assert "\0" not in text
    assert "class JSONDecoder(object):" in text
    assert text == standard_library()


SETS = corpora.data_directory()
needs = {
    name: pytest.mark.skipif(
        not (SETS / name / remote.file).is_file(), reason=f"{name} is not in the data directory"
    )
    for name, remote in corpora.CORPORA.items()
}


@needs["tiny_shakespeare"]
def test_tiny_shakespeare(monkeypatch):
    monkeypatch.setenv("JAXRNN_DATA", str(SETS))
    text = load_text("tiny_shakespeare")
    assert len(text) == 1_115_394
    assert len(set(text)) == 65
    assert text.startswith("First Citizen:\n")


@needs["war_and_peace"]
def test_war_and_peace(monkeypatch):
    monkeypatch.setenv("JAXRNN_DATA", str(SETS))
    text = load_text("war_and_peace")
    assert len(text.encode()) == 3_196_228
    assert "\r" not in text
    assert not text.startswith("\ufeff")
