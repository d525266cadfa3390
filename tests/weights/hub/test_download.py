"""Downloads from sites that are slow, cut off, lie, redirect or are not there: each fault is one line."""

import contextlib
import dataclasses
import hashlib
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest
import requests

from inception_jax.errors import UserError
from inception_jax.weights.hub import download, transfer
from inception_jax.weights.hub.download import Record, Remote, fetch
from tests.processes import started
from tests.weights.hub.servers import File, Site, serving

ROOT = pathlib.Path(__file__).parents[3]
CONTENT = hashlib.shake_128(b"weights").digest(50_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "weights" / "a" / "net.bin"


def remote(*urls, **changes):
    given = {"size": len(CONTENT), "hashes": (f"sha256:{SHA256[:8]}",), "licence": "MIT", **changes}
    return Remote("a/net", "net.bin", urls, version=" ".join(given["hashes"]), **given)


def get(target, wanted):
    return fetch(target, lambda: wanted, wanted.version)


def refused(target, wanted):
    with pytest.raises(UserError) as info:
        get(target, wanted)
    assert "\n" not in str(info.value)
    assert not target.exists()
    return str(info.value)


def test_a_file_is_announced_downloaded_and_recorded(site, target, capsys):
    site.files["/net.bin"] = File(CONTENT)
    record = get(target, remote(f"{site.url}/net.bin"))
    assert target.read_bytes() == CONTENT
    assert (record.sha256, record.url) == (SHA256, f"{site.url}/net.bin")
    assert Record.read(target) == record
    assert capsys.readouterr().err.splitlines() == [
        "a/net: net.bin, 0.1 MB, licence: MIT",
        f"  from {site.url}/net.bin to {target}",
    ]
    assert {path.name for path in target.parent.iterdir()} <= {"net.bin", ".net.bin.record", ".net.bin.lock"}


def test_a_licence_and_a_size_that_nobody_states(site, target, capsys):
    site.files["/net.bin"] = File(CONTENT, length=-1)
    get(target, remote(f"{site.url}/net.bin", size=None, licence=None))
    assert capsys.readouterr().err.startswith("a/net: net.bin, size: not stated, licence: not stated\n")
    assert target.read_bytes() == CONTENT


def test_a_file_that_is_here_is_not_asked_for(site, target, monkeypatch):
    site.files["/net.bin"] = File(CONTENT)
    wanted = remote(f"{site.url}/net.bin")
    first = get(target, wanted)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get(target, wanted) == first
    assert len(site.requests) == 1


def test_a_cut_download_continues_where_it_stopped(site, target, capsys):
    site.files["/net.bin"] = File(CONTENT, cuts=[10_000, 0, 12_000])
    get(target, remote(f"{site.url}/net.bin"))
    assert target.read_bytes() == CONTENT
    assert site.asked("Range") == ["bytes=10000-", "bytes=10000-", "bytes=22000-"]
    assert site.asked("If-Range") == ['"v1"'] * 3
    assert "continued at 0.0 MB" in capsys.readouterr().err


def test_what_a_stopped_process_received_is_kept(site, target, monkeypatch):
    site.files["/net.bin"] = File(CONTENT, cuts=[20_000] + [0] * 9)
    words = refused(target, remote(f"{site.url}/net.bin"))
    assert "net.bin ended after 20,000 of 50,000 bytes (5 attempts in a row; 20,000 bytes are kept" in words
    site.files["/net.bin"].cuts.clear()
    get(target, remote(f"{site.url}/net.bin"))
    assert site.asked("Range")[-1] == "bytes=20000-"
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_glued(site, target):
    other = bytes(reversed(CONTENT))
    site.files["/net.bin"] = File(other, tag="v0", cuts=[20_000] + [0] * 9)
    refused(target, remote(f"{site.url}/net.bin"))
    site.files["/net.bin"] = File(CONTENT)
    get(target, remote(f"{site.url}/net.bin"))
    assert (site.asked("Range")[-1], site.asked("If-Range")[-1]) == ("bytes=20000-", '"v0"')
    assert target.read_bytes() == CONTENT


def test_the_beginning_of_one_address_is_not_continued_by_another(site, target):
    """An ETag identifies a version of one address only."""
    site.files["/other"] = File(bytes(reversed(CONTENT)), cuts=[20_000] + [0] * 9)
    site.files["/net.bin"] = File(CONTENT)
    get(target, remote(f"{site.url}/other", f"{site.url}/net.bin"))
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("changes", [{"ranges": False}, {"tag": ""}])
def test_a_server_that_continues_nothing_is_begun_anew(site, target, changes):
    site.files["/net.bin"] = File(CONTENT, cuts=[10_000], **changes)
    get(target, remote(f"{site.url}/net.bin"))
    assert target.read_bytes() == CONTENT
    assert bool(site.asked("Range")) == ("tag" not in changes)


def test_a_partial_file_that_is_whole_is_only_checked(site, target):
    """The process was stopped between the last byte and the renaming."""
    url = f"{site.url}/net.bin"
    target.parent.mkdir(parents=True)
    partial = target.with_name(".net.bin.partial")
    partial.write_bytes(CONTENT)
    state = transfer.State(url, '"v1"', len(CONTENT))
    transfer._state_file(partial).write_text(transfer.json.dumps(dataclasses.asdict(state)))
    get(target, remote(url))
    assert target.read_bytes() == CONTENT
    assert site.requests == []


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (File(CONTENT[:-1] + b"x"), "gives another file: its sha256 is "),
        (File(CONTENT[:-10]), "has 49,990 bytes; the file has 50,000."),
        (File(CONTENT, length=60_000), "has 60,000 bytes; the file has 50,000."),
        (File(CONTENT + b"more", length=-1), "sends more than 50,000 bytes."),
        (
            File(b"<html>Sign in</html>", kind="text/html; charset=utf-8"),
            "answers with a web page in place of the file.",
        ),
        (File(CONTENT, headers={"Content-Encoding": "gzip"}), "encodes the file as gzip, which was not asked for."),
        (File(CONTENT, statuses=[403]), "answers HTTP 403 Forbidden."),
        (File(CONTENT, statuses=[503] * 5), "answers HTTP 503 Service Unavailable (5 attempts in a row)."),
        (File(CONTENT, location="/net.bin"), "redirects without end."),
        (None, "answers HTTP 404 Not Found."),
    ],
)
def test_a_server_that_gives_another_file(site, target, file, words):
    if file:
        site.files["/net.bin"] = file
    url = f"{site.url}/net.bin"
    error = refused(target, remote(url))
    assert error.startswith(f"a/net cannot be downloaded: {url} {words.rstrip('.')}")
    by_hand = f"Download net.bin (50,000 bytes, sha256:{SHA256[:8]}) from {url} and put it at {target}."
    assert error.endswith(by_hand)
    assert not target.with_name(".net.bin.partial").exists()


def test_a_stated_length_that_is_wrong(site, target):
    """No size is published: the range that is left is empty, and the hash fits."""
    site.files["/net.bin"] = File(CONTENT, length=60_000)
    get(target, remote(f"{site.url}/net.bin", size=None))
    assert target.read_bytes() == CONTENT


def test_busy_servers_are_asked_again(site, target):
    site.files["/net.bin"] = File(CONTENT, statuses=[503, 429, 500])
    get(target, remote(f"{site.url}/net.bin"))
    assert len(site.requests) == 4


def test_a_server_that_stops_sending(site, target, monkeypatch):
    monkeypatch.setattr(transfer, "READ", 0.2)
    site.files["/net.bin"] = File(CONTENT, pause=0.6)
    words = refused(target, remote(f"{site.url}/net.bin"))
    assert "net.bin sends nothing for 0 s (5 attempts in a row)" in words


def test_a_slow_server_is_waited_for(site, target, monkeypatch):
    monkeypatch.setattr(transfer, "READ", 0.5)
    site.files["/net.bin"] = File(CONTENT, pause=0.05)  # longer than READ altogether
    get(target, remote(f"{site.url}/net.bin"))
    assert target.read_bytes() == CONTENT


def test_redirections_are_followed_without_the_token(site, target):
    with serving(Site()) as other:
        other.files["/there/net.bin"] = File(CONTENT)
        site.files["/net.bin"] = File(b"", location=other.url.replace("127.0.0.1", "localhost") + "/there/net.bin")
        wanted = remote(f"{site.url}/net.bin", headers={"Authorization": "Bearer secret"})
        get(target, wanted)
        assert site.asked("Authorization") == ["Bearer secret"]
        assert other.asked("Authorization") == []
    assert target.read_bytes() == CONTENT


def test_encryption_is_not_given_up(tmp_path):
    answer = requests.Response()
    answer.status_code, answer.url = 200, "http://example.org/net.bin"
    with pytest.raises(
        transfer.Unavailable, match=r"redirects to an address without encryption, http://example.org/net"
    ):
        transfer._answer(answer, "https://example.org/net.bin", tmp_path / "net.bin", 0, None)
    assert transfer._answer(answer, "http://example.org/net.bin", tmp_path / "net.bin", 0, None) == (0, None)


def test_a_certificate_that_cannot_be_verified(target, monkeypatch):
    """It is no fault that may pass: the address is asked once."""
    asked = []

    def get_badly(url, **_):
        asked.append(url)
        raise requests.exceptions.SSLError(Exception("self-signed certificate"))

    monkeypatch.setattr(transfer.requests, "get", get_badly)
    words = refused(target, remote("https://example.org/net.bin"))
    assert "has a certificate that cannot be verified: self-signed certificate." in words
    assert len(asked) == 1


def test_mirrors_are_tried_in_turn(site, target, capsys):
    site.files["/good"], site.files["/lying"] = File(CONTENT), File(bytes(50_000))
    nowhere = f"http://127.0.0.1:{_free_port()}/net.bin"
    record = get(target, remote(nowhere, f"{site.url}/missing", f"{site.url}/lying", f"{site.url}/good"))
    assert record.url == f"{site.url}/good"
    told = [line for line in capsys.readouterr().err.splitlines() if "Trying" in line]
    assert told[0] == f"{nowhere} cannot be reached: Connection refused. Trying {site.url}/missing"
    assert [line.rpartition("/")[2] for line in told] == ["missing", "lying", "good"]


def test_all_addresses_that_failed_are_named(site, target):
    nowhere = f"http://127.0.0.1:{_free_port()}/net.bin"
    error = refused(target, remote(nowhere, f"{site.url}/missing"))
    assert f"{nowhere} cannot be reached: Connection refused; {site.url}/missing answers HTTP 404" in error


def test_a_server_that_leaves_and_comes_back(site, target, monkeypatch):
    """After the first bytes, a refused connection is a fault that may pass."""
    site.files["/net.bin"] = File(CONTENT, cuts=[20_000])
    pauses = []

    def away(seconds):
        pauses.append(seconds)
        if len(pauses) == 1:
            monkeypatch.setattr(transfer.requests, "get", _unreachable)
        if len(pauses) == 3:
            monkeypatch.undo()

    monkeypatch.setattr(transfer.time, "sleep", away)
    monkeypatch.setattr(transfer, "PAUSE", 1.0)
    get(target, remote(f"{site.url}/net.bin"))
    assert target.read_bytes() == CONTENT
    assert pauses == [1.0, 2.0, 4.0]


def _unreachable(*_, **__):
    raise transfer.requests.ConnectionError("gone")


def test_a_name_that_cannot_be_resolved(target):
    error = refused(target, remote("https://weights.invalid/net.bin"))
    assert "https://weights.invalid/net.bin cannot be reached: Network is unreachable. Download net.bin" in error


def test_a_proxy_is_used(site, target, monkeypatch):
    site.files["http://weights.invalid/net.bin"] = File(CONTENT)  # a proxy is asked for the whole address
    monkeypatch.setenv("http_proxy", site.url)
    get(target, remote("http://weights.invalid/net.bin"))
    assert target.read_bytes() == CONTENT


def test_a_proxy_that_is_not_there(target, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{_free_port()}")
    error = refused(target, remote("http://weights.invalid/net.bin"))
    assert "cannot be reached through the proxy: Connection refused" in error


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline(site, target, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    url = f"{site.url}/net.bin"
    assert refused(target, remote(url)) == (
        "a/net is not downloaded, because HF_HUB_OFFLINE is set. "
        f"Download net.bin (50,000 bytes, sha256:{SHA256[:8]}) from {url} and put it at {target}."
    )
    assert site.requests == []


def test_a_damaged_file_is_named_and_downloaded_again(site, target, capsys):
    site.files["/net.bin"] = File(CONTENT)
    get(target, remote(f"{site.url}/net.bin"))
    target.write_bytes(CONTENT[:-1] + b"x")
    capsys.readouterr()
    get(target, remote(f"{site.url}/net.bin"))
    assert target.read_bytes() == CONTENT
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(f"{target} is damaged: its SHA-256 is ")
    assert first.endswith(f", not {SHA256}. It is downloaded again.")


def test_another_version_replaces_the_file(site, target):
    site.files["/net.bin"] = File(CONTENT)
    get(target, remote(f"{site.url}/net.bin"))
    new = CONTENT[::-1]
    site.files["/net.bin"] = File(new)
    get(target, remote(f"{site.url}/net.bin", hashes=(f"sha256:{hashlib.sha256(new).hexdigest()}",)))
    assert target.read_bytes() == new


def test_a_file_that_someone_put_there_stays(site, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    assert get(target, remote(f"{site.url}/net.bin")) is None
    assert (target.read_bytes(), site.requests) == (b"mine", [])


def test_hashes_of_other_algorithms(site, target):
    site.files["/net.bin"] = File(CONTENT)
    hashes = (f"md5:{hashlib.md5(CONTENT).hexdigest()}", f"sha384:{hashlib.sha384(CONTENT).hexdigest()}")
    assert get(target, remote(f"{site.url}/net.bin", hashes=hashes)).sha256 == SHA256
    target.unlink()
    error = refused(target, remote(f"{site.url}/net.bin", hashes=("md5:" + "0" * 32,)))
    assert "gives another file: its md5 is" in error


def test_a_full_disk(site, target, monkeypatch):
    site.files["/net.bin"] = File(CONTENT)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 40_000}))
    assert refused(target, remote(f"{site.url}/net.bin")) == f"{target.parent} has 0.0 MB free; 0.1 MB are needed."


def test_a_file_is_whole_or_not_there(site, target, monkeypatch):
    site.files["/net.bin"] = File(CONTENT)
    rename = pathlib.Path.replace

    def fail(path, new):
        if new == target:
            raise OSError(28, "No space left on device")
        return rename(path, new)

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    assert refused(target, remote(f"{site.url}/net.bin")) == f"{target} cannot be written: No space left on device."


def test_a_folder_that_cannot_be_written(site, tmp_path):
    (tmp_path / "file").write_text("")
    error = refused(tmp_path / "file" / "net.bin", remote(f"{site.url}/net.bin"))
    assert error == f"{tmp_path / 'file'} cannot be written: File exists."


DOWNLOAD = """
import pathlib, sys
from inception_jax.weights.hub import download, transfer
transfer.BLOCK = 4096
url, target, size, digits = sys.argv[1:]
remote = download.Remote("a/net", "net.bin", (url,), int(size), (digits,), version=digits)
print(download.fetch(pathlib.Path(target), lambda: remote, digits).sha256)
"""
HOLD = """
import sys, time, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def process(code, *arguments):
    """Returns a context manager that runs code in another process, which imports nothing but the downloads."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return started(command, 120, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def downloading(site, target):
    return process(DOWNLOAD, f"{site.url}/net.bin", target, len(CONTENT), f"sha256:{SHA256[:8]}")


def test_four_processes_download_once(site, target):
    site.files["/net.bin"] = File(CONTENT, pause=0.1)
    with contextlib.ExitStack() as running:
        workers = [running.enter_context(downloading(site, target)) for _ in range(4)]
        assert [worker.communicate()[0] for worker in workers] == [f"{SHA256}\n"] * 4
    assert len(site.requests) == 1


def test_a_process_that_is_killed_leaves_its_part_to_the_next(site, target):
    site.files["/net.bin"] = File(CONTENT, pause=0.2)
    partial = target.with_name(".net.bin.partial")
    with downloading(site, target) as worker:
        deadline = time.monotonic() + 60
        while (not partial.exists() or not partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        worker.kill()
    kept = partial.stat().st_size
    assert 0 < kept < len(CONTENT)
    site.files["/net.bin"].pause = 0
    get(target, remote(f"{site.url}/net.bin"))
    assert site.asked("Range") == [f"bytes={kept}-"]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("killed", [False, True])
def test_the_lock_of_another_process_is_waited_for(site, target, capsys, killed):
    """Also if that process is killed: the system releases its lock."""
    site.files["/net.bin"] = File(CONTENT)
    target.parent.mkdir(parents=True)
    with process(HOLD, target.with_name(".net.bin.lock"), 60 if killed else 0.3) as holder:
        assert holder.stdout.readline() == "held\n"
        if killed:
            threading.Timer(0.3, holder.kill).start()
        get(target, remote(f"{site.url}/net.bin"))
    assert "a/net: waiting for another process that downloads it." in capsys.readouterr().err
    assert target.read_bytes() == CONTENT


def test_tests_reach_no_other_machine():
    with pytest.raises(OSError, match="Network is unreachable"), socket.create_connection(("192.0.2.1", 80), timeout=1):
        pass
    with pytest.raises(OSError, match="Network is unreachable"):
        socket.getaddrinfo("example.org", 80)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
