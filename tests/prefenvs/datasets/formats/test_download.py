"""Downloads against a server on this machine that drops connections, changes files and lies."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from prefenvs import PrefenvsError
from prefenvs.datasets import find_d4rl
from prefenvs.datasets.d4rl.download import download
from prefenvs.datasets.d4rl.entries import D4RLEntry, load_d4rl

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.body`; drops the connection after `server.cut` bytes, as often as `server.drops` says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((wanted, self.headers.get("If-Range")))
        if self.path == "/missing":
            self.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if self.headers.get("If-Range") not in (None, server.tag):
            begin = 0
        body = server.body[begin:]
        if begin and not body:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        if server.drops:
            server.drops -= 1
            self.wfile.write(body[: server.cut])
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.tag, server.ranges = BODY, '"one"', True
    server.drops, server.cut, server.requests = 0, 1_300_000, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(server, path, checksum=None, name="/data.hdf5", **options):
    return download(server.address + name, path, checksum, progress=False, **{"pause": 0.0} | options)


def assert_alone(path):
    assert path.read_bytes() == BODY
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("checksum", [None, SHA256, MD5, SHA256.upper()])
def test_a_file_comes_whole(server, tmp_path, checksum) -> None:
    path = fetch(server, tmp_path / "new" / "data.hdf5", checksum)
    assert_alone(path)
    assert server.requests == [(None, None)]
    fetch(server, path)
    assert len(server.requests) == 1


def test_a_dropped_connection_goes_on_where_it_ended(server, tmp_path) -> None:
    server.drops = 2
    assert_alone(fetch(server, tmp_path / "data.hdf5", SHA256))
    assert server.requests == [(None, None), ("bytes=1300000-", '"one"'), ("bytes=2600000-", '"one"')]


def test_a_stopped_download_goes_on_in_the_next_call(server, tmp_path) -> None:
    server.drops = 1
    with pytest.raises(PrefenvsError, match=r"ended after 1300000 of 3000000 bytes.* 1300000 bytes are kept") as caught:
        fetch(server, tmp_path / "data.hdf5", attempts=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data.hdf5").exists()
    assert_alone(fetch(server, tmp_path / "data.hdf5", SHA256))
    assert server.requests[-1] == ("bytes=1300000-", '"one"')


def test_a_download_that_missed_only_its_name_is_not_fetched_again(server, tmp_path) -> None:
    (tmp_path / "data.hdf5.part").write_bytes(BODY)
    (tmp_path / "data.hdf5.part.tag").write_text('"one"')
    assert_alone(fetch(server, tmp_path / "data.hdf5", SHA256))
    assert server.requests == [("bytes=3000000-", '"one"')]


def test_a_file_that_changed_meanwhile_begins_anew(server, tmp_path) -> None:
    server.drops, server.tag, server.body = 1, '"old"', BODY[::-1]
    with pytest.raises(PrefenvsError):
        fetch(server, tmp_path / "data.hdf5", attempts=1)
    server.tag, server.body = '"one"', BODY
    assert_alone(fetch(server, tmp_path / "data.hdf5", SHA256))


@pytest.mark.parametrize("change", [{"ranges": False}, {"tag": ""}, {"tag": 'W/"weak"'}])
def test_servers_that_cannot_resume_are_asked_for_all(server, tmp_path, change) -> None:
    vars(server).update(change, drops=1)
    assert_alone(fetch(server, tmp_path / "data.hdf5", SHA256))


def test_a_wrong_checksum_leaves_nothing(server, tmp_path) -> None:
    with pytest.raises(PrefenvsError, match=f"has the checksum {SHA256}, expected {'0' * 64}"):
        fetch(server, tmp_path / "data.hdf5", "0" * 64)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PrefenvsError, match="SHA-256"):
        fetch(server, tmp_path / "data.hdf5", "123")


@pytest.mark.parametrize(("suffix", "good"), [(".sha256", SHA256), (".md5", MD5)])
def test_a_file_beside_tells_the_checksum(server, tmp_path, suffix, good) -> None:
    side = tmp_path / f"data.hdf5{suffix}"
    side.write_text(f"{'0' * len(good)}  data.hdf5\n")
    with pytest.raises(PrefenvsError, match=f"expected {'0' * len(good)}"):
        fetch(server, tmp_path / "data.hdf5")
    side.write_text(f"{good}  data.hdf5\n")
    assert fetch(server, tmp_path / "data.hdf5").read_bytes() == BODY
    side.write_text("")
    with pytest.raises(PrefenvsError, match="is empty"):
        fetch(server, tmp_path / "data.hdf5")


def test_failures_are_told_in_one_line(server, tmp_path) -> None:
    with pytest.raises(PrefenvsError, match="404") as caught:
        fetch(server, tmp_path / "data.hdf5", name="/missing")
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1
    with pytest.raises(PrefenvsError, match=r"refused.* Without a network, put the file at .*data.hdf5"):
        download("http://127.0.0.1:9/x", tmp_path / "data.hdf5", progress=False, attempts=2, pause=0.0)


def test_two_who_want_the_same_file_fetch_it_once(server, tmp_path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(server, tmp_path / "data.hdf5", SHA256), range(4)))
    assert_alone(paths[0])
    assert len(server.requests) == 1


def test_a_data_set_comes_by_its_name(server, tmp_path, monkeypatch, capsys) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "made.hdf5", "w") as file:
        for name, shape in {"observations": (30, 11), "actions": (30, 3), "rewards": (30,)}.items():
            file[name] = np.ones(shape, np.float32)
        file["terminals"] = np.arange(30) % 10 == 9
        file["timeouts"] = np.zeros(30, bool)
    server.body = (tmp_path / "made.hdf5").read_bytes()
    entry = find_d4rl("hopper-medium-v2")
    here = D4RLEntry(entry.name, entry.scores, f"{server.address}/{entry.file}")
    monkeypatch.setattr("prefenvs.datasets.d4rl.entries.find_d4rl", lambda name: here)
    dataset = load_d4rl("hopper-medium-v2", folder=tmp_path / "cache")
    assert dataset.trajectories.ends.tolist() == [10, 20, 30]
    assert (tmp_path / "cache" / "hopper_medium-v2.hdf5").is_file()
    assert "hopper_medium-v2.hdf5" in capsys.readouterr().err
