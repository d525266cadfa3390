"""The demo over HTTP, as its page asks; tests/parity/test_browser.py does it in a browser."""

import base64
import concurrent.futures
import io
import json
import re
import socket
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from inception_jax import weights
from inception_jax.demo import app
from inception_jax.errors import UserError
from inception_jax.explain import cam, heatmaps, localisation
from inception_jax.inference.predictor import Predictor
from tests.inference.test_export_stablehlo import NAMES, tiny_to_export

MAX_BYTES = 20_000_000
pytest.importorskip("starlette", reason="needs the extra demo")
pytest.importorskip("uvicorn", reason="needs the extra demo")


def png(*shape, seed=0) -> bytes:
    """Returns a picture in PNG, random, or black where it is large."""
    draw = (
        np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        if np.prod(shape) < 1e6
        else np.zeros(shape, np.uint8)
    )
    buffer = io.BytesIO()
    Image.fromarray(draw).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def predictor():
    return Predictor(tiny_to_export(), max_batch=1)


@pytest.fixture(scope="module")
def address(predictor):
    served = app.Demo({"first": predictor, "<second>": predictor})
    served.warmup()
    with app.listen("127.0.0.1", 0) as listening:
        server = app.server(app.create_app(served))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield "http://{}:{}".format(*listening.getsockname())
        server.should_exit = True
        thread.join()


def ask(address, body, model="first"):
    """Returns the status and the answer."""
    request = urllib.request.Request(f"{address}/predict?model={model}", body, method="POST")
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_page(address):
    with urllib.request.urlopen(address) as response:
        text, policy = response.read().decode(), response.headers["Content-Security-Policy"]
    assert "<option>first</option><option>&lt;second&gt;</option>" in text
    assert "{{" not in text
    assert not re.findall(r"https?://|//\w", text.replace("// a slow", ""))  # nothing from elsewhere
    assert policy.startswith("default-src 'none'; connect-src 'self';")


def test_the_five_likeliest_classes(address, predictor):
    encoded = png(30, 20, 3)
    status, answer = ask(address, encoded, "%3Csecond%3E")
    (expected,) = predictor([encoded])
    assert status == 200
    assert (answer["width"], answer["height"]) == (20, 30)
    assert answer["classes"] == [
        {"label": NAMES[c.index], "probability": pytest.approx(c.probability)} for c in expected.classes
    ]
    assert len(answer["classes"]) == 5


def test_where_the_network_looks(address, predictor):
    """The longer side of the picture has SHOWN pixels; the box is that of the class activation map, in image pixels."""
    for shape in ((30, 20, 3), (700, 1000, 3)):
        encoded = png(*shape, seed=3)
        _, answer = ask(address, encoded)
        kind, _, data = answer["seen"].partition(",")
        assert kind == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        scale = app.SHOWN / max(shape[:2])
        assert picture.size == (round(shape[1] * scale), round(shape[0] * scale))
        assert np.asarray(picture).std() > 5
        found = cam.cam(predictor, [encoded])
        whole = heatmaps.on_image(
            heatmaps.heat(found.maps[0, 0]), predictor.transform.box(shape[1], shape[0]), shape[1], shape[0]
        )
        expected = localisation.largest_box(whole)
        assert (answer["box"] is None) == (expected is None)
        if expected:
            np.testing.assert_allclose(answer["box"], expected, atol=max(2 / scale, 1) + 1)


def test_nothing_hot_has_no_box():
    image = Image.new("RGB", (40, 20), "red")
    _, box = app.draw_seen(image, np.full((2, 2), -1.0), (10, 0, 30, 20))
    assert box is None
    _, box = app.draw_seen(image, np.array([[0.0, 1.0], [0.0, 1.0]]), (10, 0, 30, 20))
    left, top, right, bottom = box
    assert 14 <= left <= 22
    assert (top, right, bottom) == (0, 30, 20)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"no image", 400, "not an image (8 bytes)"),
        (b"", 400, "not an image (0 bytes)"),
        (png(30, 20, 3)[:200], 400, "This file cannot be shown to the network: "),
        (png(10_000, 10_000), 400, "10000 x 10000 pixels are over the limit of 89,000,000"),
        (png(1, 60_000), 400, "60000 x 1 pixels are too narrow: one side is over 50 times the other"),
        (bytes(2 * MAX_BYTES), 413, "This file is over 20 MB."),
    ],
    ids=["words", "nothing", "cut", "huge", "narrow", "heavy"],
)
def test_what_is_refused(address, body, status, message):
    found, answer = ask(address, body)
    assert found == status
    assert message in answer["error"]


def test_a_body_of_unknown_length_has_its_limit_too(address):
    status, answer = ask(address, (bytes(1_000_000) for _ in range(2 * MAX_BYTES // 1_000_000)))
    assert (status, answer) == (413, {"error": "This file is over 20 MB."})


def test_other_models_and_addresses(address):
    assert ask(address, png(9, 9), "third") == (404, {"error": "There is no model 'third'; there is first, <second>."})
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(f"{address}/predict").close()


def test_twenty_at_once(address, predictor):
    pictures = [png(20, 20, 3, seed=i) if i % 4 else b"no image" for i in range(20)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda picture: ask(address, picture), pictures))
    assert [status for status, _ in answers] == [200 if i % 4 else 400 for i in range(20)]
    for picture, (status, answer) in zip(pictures, answers, strict=True):
        if status == 200:
            assert answer["classes"][0]["label"] == predictor([picture])[0].classes[0].label
    assert predictor.compilations == 1


def test_mistakes_are_one_line(run, monkeypatch):
    assert run("demo")[::2] == (2, "inception-jax: Name at least one network: --weights, or --workdir.\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = run("demo", "--weights", "a", "--port", port)
    assert code == 2
    assert re.fullmatch(rf"inception-jax: Nothing can listen on 127.0.0.1 port {port}: .* in use.*\.\n", err)
    headless = Predictor(weights.adapt(tiny_to_export(), num_classes=0), class_names=())
    with pytest.raises(UserError, match="body has no classifier: the demo shows classes"):
        app.Demo({"body": headless})
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs starlette and uvicorn \(pip install 'inception-jax\[demo\]'\)"):
        app.Demo({})
