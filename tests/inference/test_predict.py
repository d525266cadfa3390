"""The predict command: what it finds, prints, and says of what is broken."""

import csv
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from inception_jax.data.pixels import BrokenImage
from inception_jax.errors import UserError
from inception_jax.inference.files import find_images
from inception_jax.inference.images import load_rgb
from inception_jax.weights import files
from tests.inference.conftest import NAMES


@pytest.fixture
def folder(tmp_path):
    """Three images, one in a folder below; others that do not count."""
    rng = np.random.default_rng(0)
    (tmp_path / "below").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.png", "a.PNG", "below/c.jpg", ".hidden/d.png"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    return tmp_path


def test_what_names_stand_for(folder):
    a, b, c = folder / "a.PNG", folder / "b.png", folder / "below" / "c.jpg"
    assert find_images([str(folder)]) == [a, b, c]
    assert find_images([str(c), str(folder / "*.png"), "missing.png"]) == [c, b, type(c)("missing.png")]
    assert find_images([str(folder / "**" / "*.jpg")]) == [c]
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"Folder .*empty holds no image \(.apng, .avif, .bmp, "):
        find_images([str(folder / "empty")])
    with pytest.raises(UserError, match=r"No file matches .*\*\.tif"):
        find_images([str(folder / "*.tif")])
    with pytest.raises(UserError, match="No images are named"):
        find_images([])


def test_a_folder_is_read_through_links_and_what_is_left_out_is_said(folder, tmp_path_factory, caplog):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "e.JFIF").write_bytes(b"")
    (folder / "link").symlink_to(elsewhere)
    (folder / "below" / "up").symlink_to(folder)
    (folder / "below" / "itself").symlink_to("itself")
    (folder / "z.png").symlink_to("nowhere")
    (folder / "y.png").mkdir()
    os.mkfifo(folder / "x.png")
    found = find_images([str(folder)])
    assert [str(path.relative_to(folder)) for path in found] == ["a.PNG", "b.png", "below/c.jpg", "link/e.JFIF"]
    (message,) = (each.getMessage() for each in caplog.records)
    assert message.startswith(
        f"{folder}: 6 files are left out: below/itself, below/up (a link to a folder that it is in), notes.txt, "
        "x.png (no regular file), y.png (a folder), ...; regular files in "
    )
    with pytest.raises(UserError, match=r"^~no_such_user/a\.png: "):
        find_images(["~no_such_user/a.png"])


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "secret"])
def test_what_is_no_regular_file_is_said_at_once(tmp_path, kind):
    path = tmp_path / "a.png"
    {
        "fifo": lambda: os.mkfifo(path),
        "zero": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "secret": lambda: path.symlink_to("a.png"),
    }[kind]()
    with pytest.raises(BrokenImage, match=r"a\.png is no regular file but a|Too many levels of symbolic links"):
        load_rgb(path)


def test_json_of_a_folder_in_order_with_a_broken_image(run, folder, source, predictor, tmp_path):
    weights = tmp_path / "tiny.safetensors"
    files.save(weights, source)
    (folder / "a0.png").write_bytes(b"no")
    code, out, err = run(
        "predict", str(folder), "gone.png", "--weights", str(weights), "-k", "2", "--json", "--batch", "8"
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [line["image"] for line in lines] == [str(folder / name) for name in ("a.PNG", "b.png", "below/c.jpg")]
    expected = predictor([lines[0]["image"]], k=2)[0].classes
    assert [each["label"] for each in lines[0]["classes"]] == [each.label for each in expected]
    assert [each["probability"] for each in lines[0]["classes"]] == pytest.approx(
        [x.probability for x in expected], rel=1e-5
    )
    assert err.startswith(f"inception-jax: {folder}: 2 files are left out: notes.txt, tiny.safetensors; ")
    assert err.splitlines()[1:] == [
        f"inception-jax: {folder / 'a0.png'}: not an image (2 bytes)",
        "inception-jax: gone.png: No such file or directory",
        "inception-jax: 2 of 5 images cannot be read.",
    ]


def test_csv_and_table_of_a_list_on_stdin(run, folder, predictor, monkeypatch):
    monkeypatch.setattr("inception_jax.cli.predict.load_predictor", lambda *_, **__: predictor)
    listed = f"{folder / 'b.png'}\n\n{folder / 'a.PNG'}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    code, out, err = run("predict", "-", "-k", "3", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "")
    assert [row["image"] for row in rows] == [str(folder / "b.png")] * 3 + [str(folder / "a.PNG")] * 3
    assert [row["rank"] for row in rows] == list("123123")
    assert all(row["label"] == NAMES[int(row["index"])] for row in rows)
    monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    code, out, _ = run("predict", "-", "-k", "1")
    shown = [
        f"{row['image']:<{len(str(folder)) + 6}}  {float(row['probability']):7.2%}  {row['label']}" for row in rows[::3]
    ]
    assert out.splitlines() == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-",), "No images are named: give files, folders, globs, or - for a list on stdin."),
        (("a.png", "--json", "--csv"), "--json and --csv exclude each other."),
        (("a.png",), "Name a network: either --weights or --workdir."),
    ],
)
def test_mistakes(run, monkeypatch, arguments, message):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("predict", *arguments) == (2, "", f"inception-jax: {message}\n")


@pytest.mark.parametrize(("arguments", "turned"), [((), True), (("--exif",), True), (("--no-exif",), False)])
def test_the_command_says_whether_photographs_are_turned(run, folder, predictor, monkeypatch, arguments, turned):
    asked = []

    def load(*_, exif, **__):
        asked.append(exif)
        return predictor

    monkeypatch.setattr("inception_jax.cli.predict.load_predictor", load)
    code, _, err = run("predict", str(folder / "b.png"), "--weights", "w", "-k", "1", *arguments)
    assert (code, err, asked) == (0, "", [turned])
