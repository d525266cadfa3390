"""What the demo does about visitors who send too much, too slowly, or for others, and how it stops."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time

import pytest

from inception_jax.data.transforms import BrokenImage

pytest.importorskip("starlette", reason="needs the extra demo")
pytest.importorskip("uvicorn", reason="needs the extra demo")
from inception_jax.demo import app
from inception_jax.demo.serving import Limits

SHORT = Limits(
    bytes_of_one=100_000,
    bytes_of_all=150_000,
    uploads=3,
    images=2,
    connections=8,
    header_seconds=0.3,
    body_seconds=0.3,
    idle_seconds=0.3,
    wait_seconds=0.2,
    decode_seconds=0.2,
)


class Lengths(app.Demo):
    """Answers with the length of what it gets, instead of what a network sees."""

    def __init__(self, limits):
        super().__init__({}, limits)
        self.predictors = {"first": None}

    def _answer(self, predictor, image):
        return {"length": len(image)}


@contextlib.contextmanager
def serving(limits=SHORT, host="127.0.0.1", **changes):
    """Serves `Lengths`; gives the port."""
    limits = Limits(**{**vars(limits), **changes})
    with app.listen("127.0.0.1", 0) as listening:
        server = app.server(app.create_app(Lengths(limits), host), limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def port(monkeypatch):
    monkeypatch.setattr(app, "open_upload", bytes)
    with serving() as port:
        yield port


def ask(port, body=b"12345", path="/predict?model=first", method="POST", **headers):
    """Returns the status and what was answered; {} for no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text.startswith(b"{") else text.decode()


def begin(port, length, sent=b""):
    """Begins an upload and sends a part of it; returns the connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"POST /predict?model=first HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + sent)
    return connection


def ending(connection):
    """Returns what comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    connection.close()
    return found


def test_an_upload_that_does_not_go_on_ends(port):
    answer = ending(begin(port, 1000, b"x"))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"This upload took over 0.3 seconds." in answer
    assert ask(port) == (200, {"length": 5})


@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["first", "second"])
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: loc"], ids=["nothing", "half"])
def test_a_header_that_does_not_go_on_ends(port, before, sent):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(before)
        assert not before or connection.recv(100).startswith(b"HTTP/1.1 200 ")
        connection.sendall(sent)
        start = time.monotonic()
        ending(connection)
    assert time.monotonic() - start < 2


def test_uploads_are_bounded_together(port):
    """Fifty unfinished ones: three are waited for, and two of them may hold bytes; all ends with their time."""
    waiting = [begin(port, 99_000, bytes(70_000)) for _ in range(5)]
    answers = [ending(each) for each in waiting]
    busy = [each for each in answers if each.startswith(b"HTTP/1.1 503 ") and b"The demo is busy" in each]
    assert len(busy) == 3
    assert sum(each.startswith(b"HTTP/1.1 408 ") for each in answers) == 2
    assert ask(port, bytes(90_000)) == (200, {"length": 90_000})


def test_the_number_of_uploads_and_of_connections_is_bounded(port):
    waiting = [begin(port, 100) for _ in range(3)]
    time.sleep(0.05)
    assert ask(port) == (503, {"error": "The demo is busy with 3 other images. Try again."})
    silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(5)]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as one_more:
        start = time.monotonic()
        assert ending(one_more) == b""
        assert time.monotonic() - start < 0.25  # at once, not with the time of a header
    for each in (*waiting, *silent):
        ending(each)
    assert ask(port) == (200, {"length": 5})


def test_aborted_uploads_leave_no_traceback(port, capfd):
    for _ in range(5):
        begin(port, 1000, b"x").close()
    time.sleep(0.1)
    assert ask(port) == (200, {"length": 5})
    assert capfd.readouterr().err.count("\n") <= 5


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:7860", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("evil.example:7860", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("10.1.2.3", 403),
        ("", 403),
        ("[::1", 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/predict?model=first"])
def test_names_of_other_machines_are_not_answered(port, host, status, path):
    found, answer = ask(port, path=path, method="GET" if path == "/" else "POST", Host=host)
    assert found == status
    assert status == 200 or "is no name of this demo." in answer["error"]


def test_a_demo_for_all_answers_to_its_addresses_and_its_name(monkeypatch):
    monkeypatch.setattr(app, "open_upload", bytes)
    with serving(host="0.0.0.0") as port:
        for host in ("10.1.2.3", "localhost", socket.gethostname(), "[fe80::1]:7860"):
            assert ask(port, Host=host)[0] == 200
        assert ask(port, Host="evil.example")[0] == 403


def test_pages_of_other_sites_may_not_use_it(port):
    for origin in ("http://evil.example", "null", "http://localhost:1", "localhost:7860"):
        assert ask(port, Host="localhost:7860", Origin=origin) == (
            403,
            {"error": f"Pages of {origin!r} may not use this demo."},
        )
    assert ask(port, Host="localhost:7860", Origin="http://localhost:7860")[0] == 200


def test_a_slow_image_holds_up_no_other(monkeypatch):
    """The slow one has its answer in time, keeps one of two places until it is decoded, and gives it back."""
    decoded = threading.Event()

    def slow(encoded):
        if encoded == b"slow":
            assert decoded.wait(10)
        if encoded == b"bad":
            raise BrokenImage("not an image")
        return encoded

    monkeypatch.setattr(app, "open_upload", slow)
    with serving() as port:
        late = 400, {"error": "This file cannot be shown to the network: it takes over 0.2 seconds to decode."}
        assert ask(port, b"slow") == late
        assert ask(port) == (200, {"length": 5})
        assert ask(port, b"slow") == late
        assert ask(port) == (503, {"error": "The demo is busy with the images of others. Try again."})
        decoded.set()
        for _ in range(4):
            assert ask(port, b"bad") == (400, {"error": "This file cannot be shown to the network: not an image."})
            assert ask(port) == (200, {"length": 5})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_in_time_with_uploads_open(number, monkeypatch, capfd):
    """One connection is silent, one sends its body, the image of one is being decoded for long."""
    decoded, signals = threading.Event(), []
    monkeypatch.setattr(app, "open_upload", lambda encoded: decoded.wait(20))
    limits = Limits(**{**vars(SHORT), "body_seconds": 60, "header_seconds": 60, "decode_seconds": 60})

    def visit(port):
        with contextlib.ExitStack() as stack:
            stack.enter_context(begin(port, 10))
            asking = stack.enter_context(begin(port, 4, b"slow"))
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            time.sleep(0.2)
            signals.append(time.monotonic())
            os.kill(os.getpid(), number)
            signals.append(asking.recv(1000))

    before = signal.signal(number, lambda *_: signals.append("raised again"))
    try:
        with app.listen("127.0.0.1", 0) as listening:
            thread = threading.Thread(target=visit, args=listening.getsockname()[1:])
            thread.start()
            app.server(app.create_app(Lengths(limits)), limits).run(sockets=[listening])
            assert time.monotonic() - signals[0] < 3
    finally:
        signal.signal(number, before)
        decoded.set()
        thread.join(10)
    assert "raised again" in signals
    assert any(b"503 Service Unavailable" in each for each in signals if isinstance(each, bytes))
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert err.count("\n") <= 1, err
