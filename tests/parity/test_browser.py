"""The demo in a browser: upload, result, other models, what it refuses, twenty uploads at once."""

import base64
import shutil

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.demo.test_app import NAMES, address, png, predictor

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="chromium and its driver are not installed",
    ),
]
__all__ = ["address", "predictor"]  # fixtures
OPTIONS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
    "disable-sync window-size=900,700"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in OPTIONS.split():
        options.add_argument(f"--{option}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    browser.get(address)
    return browser


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a file and gives its path."""

    def writer(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return writer


def _answer(page, act):
    """Does something and returns (message, whether it is an error) of the answer to it."""
    message = page.find_element(By.ID, "message")
    page.execute_script("arguments[0].textContent = ''", message)
    act()
    WebDriverWait(page, 60).until(lambda _: message.text not in ("", "Looking ..."))
    return message.text, "error" in message.get_attribute("class")


def _upload(page, path):
    return _answer(page, lambda: page.find_element(By.ID, "file").send_keys(path))


def _rows(page):
    return [item.text.split("\n") for item in page.find_elements(By.CSS_SELECTOR, "#classes li")]


def test_an_image(page, write, predictor):
    encoded = png(40, 30, 3)
    assert _upload(page, write("picture.png", encoded)) == ("picture.png: 30 x 40 pixels", False)
    (expected,) = predictor([encoded])
    assert _rows(page) == [[f"{100 * c.probability:.1f} %", NAMES[c.index]] for c in expected.classes]
    widths = [bar.size["width"] for bar in page.find_elements(By.CSS_SELECTOR, ".bar div")]
    full = page.find_element(By.CSS_SELECTOR, ".bar").size["width"]
    np.testing.assert_allclose(widths, [full * c.probability for c in expected.classes], atol=1)
    shown = page.find_element(By.ID, "shown")
    WebDriverWait(page, 10).until(lambda _: shown.get_property("naturalWidth") == 30)
    seen = page.find_element(By.ID, "seen")
    WebDriverWait(page, 10).until(lambda _: seen.get_property("naturalWidth") == 336)
    assert page.find_element(By.ID, "where").text.startswith(f"what speaks for {NAMES[expected.classes[0].index]}")


def test_another_model(page, write):
    _upload(page, write("picture.png", png(40, 30, 3)))
    before = _rows(page)
    choice = Select(page.find_element(By.ID, "model"))
    assert not _answer(page, lambda: choice.select_by_visible_text("<second>"))[1]
    assert _rows(page) == before  # it is the same network by another name
    sent = [entry["message"] for entry in page.get_log("performance") if 'requestWillBeSent"' in entry["message"]]
    assert any("model=%3Csecond%3E" in message for message in sent)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.txt", b"no image", "This file cannot be shown to the network: not an image (8 bytes)."),
        ("huge.png", png(10_000, 10_000), "10000 x 10000 pixels are over the limit of 89,000,000."),
        ("heavy.png", bytes(20_000_001), "This file is over 20 MB."),
    ],
    ids=["words", "huge", "heavy"],
)
def test_what_is_refused(page, write, name, content, message):
    _upload(page, write("picture.png", png(9, 9)))
    found, is_error = _upload(page, write(name, content))
    assert is_error
    assert message in found
    assert not page.find_element(By.ID, "result").is_displayed()
    assert not _upload(page, write("again.png", png(9, 9)))[1]  # and it goes on
    assert page.find_element(By.ID, "result").is_displayed()


def test_dropping_an_image(page):
    """A drop of a file made in the page: a real one needs a desktop."""
    page.execute_script(
        """
        const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
        """,
        base64.b64encode(png(12, 10, 3)).decode(),
    )
    message = page.find_element(By.ID, "message")
    WebDriverWait(page, 60).until(lambda _: message.text == "dropped.png: 10 x 12 pixels")


def test_twenty_at_once(page):
    """Twenty requests of the page at once, one in four no image."""
    answers = page.execute_async_script(
        """
        const [good, done] = arguments, bytes = Uint8Array.from(atob(good), (c) => c.charCodeAt(0));
        const send = (i) => fetch("predict?model=first", { method: "POST", body: i % 4 ? bytes : "no image" })
          .then(async (response) => [response.status, await response.json()]);
        Promise.all(Array.from({ length: 20 }, (_, i) => send(i))).then(done);
        """,
        base64.b64encode(png(20, 20, 3)).decode(),
    )
    assert [status for status, _ in answers] == [200 if i % 4 else 400 for i in range(20)]
    assert len({str(answer) for status, answer in answers if status == 200}) == 1


def test_nothing_was_asked_of_others(page, address):
    """Requests are to the demo or to the page itself, and the console has no complaint but the refusals."""
    log = [entry["message"] for entry in page.get_log("browser")]
    assert [line for line in log if "status of 4" not in line] == []
    urls = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [url for url in urls if not url.startswith((address, "blob:", "data:"))] == []
