"""Files that a user names: what is no regular file is refused at once, and what is written appears whole."""

import os
import socket
import subprocess
import sys

import pytest

from inception_jax import paths
from inception_jax.errors import UserError, first_line, printable


@pytest.fixture
def odd(tmp_path):
    """A folder with one of each thing that is no regular file."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    return tmp_path


@pytest.mark.parametrize("name", ["fifo", "folder", "zero", "socket"])
def test_only_regular_files_are_read_and_replaced(odd, name):
    # In a process of its own: reading a FIFO or /dev/zero would never end.
    code = "import sys; from inception_jax import paths; paths.read_bytes(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, odd / name], capture_output=True, text=True, timeout=60)
    assert "is no regular file" in done.stderr.splitlines()[-1]
    before = (odd / name).lstat()
    with pytest.raises(UserError, match="is no regular file"):
        paths.write_bytes(odd / name, b"new")
    assert (odd / name).lstat().st_ino == before.st_ino


def test_what_is_missing_or_too_long_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.png: No such file or directory"):
        paths.read_bytes(tmp_path / "nothing.png")
    (tmp_path / "five").write_bytes(b"12345")
    assert paths.read_bytes(tmp_path / "five", limit=5) == b"12345"
    with pytest.raises(UserError, match="over the limit of 4 bytes"):
        paths.read_bytes(tmp_path / "five", limit=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~nosuchuser/x.png", "'~nosuchuser' is no user"),
        ("", "A path is empty"),
        ("a\0b", r"a\\x00b is not a path: it holds a NUL"),
    ],
)
def test_a_path_that_is_none_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        paths.user_path(text)


def test_home_is_that_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.user_path("~/x.png") == tmp_path / "x.png"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "made.bin"
    target.write_bytes(b"old")

    def half():
        with paths.writing(target) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert target.read_bytes() == b"old"
    paths.write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["made.bin"]


def test_a_file_that_exists_is_replaced_only_if_asked(tmp_path):
    (tmp_path / "kept.png").write_bytes(b"old")
    with pytest.raises(UserError, match=r"kept\.png exists; --overwrite replaces it"):
        paths.write_bytes(tmp_path / "kept.png", b"new", overwrite=False)
    assert (tmp_path / "kept.png").read_bytes() == b"old"


def test_a_link_is_kept_and_its_file_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    paths.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "is no"),
        ("/", "is no"),
        ("", "A path is empty"),
        ("n" * 300, "needs 1 to 200 bytes"),
        ("missing/x.png", "missing is no folder"),
        ("x.txt", r"must end in \.png or \.pdf"),
    ],
)
def test_an_output_is_checked_before_the_work(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        paths.check_output(name, overwrite=True, suffixes=(".png", ".pdf") if name == "x.txt" else ())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 猫.png", "plain é 猫.png"),
        ("a\nb\x1b[31m", r"a\nb\x1b[31m"),
        ("\udcff.png", r"\xff.png"),
        ("\u202egnp", r"\u202egnp"),
    ],
)
def test_names_are_shown_without_what_moves_a_terminal(text, shown):
    assert printable(text) == shown
    assert printable(text).encode("utf-8")


def test_text_of_several_lines_may_keep_its_breaks():
    assert printable("a\n\x07", keep="\n") == "a\n\\x07"


def test_the_first_line_of_an_error_says_what_it_is():
    assert first_line(ValueError("shape\x1b.\nand more")) == r"shape\x1b"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


@pytest.mark.parametrize(
    "content",
    [
        b"a.png\nb c.png\n",
        b"a.png\r\n\r\nb c.png\r\n",
        b"\xef\xbb\xbfa.png\n \nb c.png",
        b"a.png\rb c.png\r",
        b"a.png\0b c.png\0",
    ],
)
def test_a_list_is_read_as_any_system_writes_it(content):
    assert paths.listed(content, "list.txt") == ["a.png", "b c.png"]


def test_what_is_in_a_list_stays_as_it_is():
    assert paths.listed(b"caf\xe9.png\n", "list") == [os.fsdecode(b"caf\xe9.png")]
    assert paths.listed(b"two\nlines.png\0", "list") == ["two\nlines.png"]
    assert paths.listed("\u2028a\x0cb.png\n".encode(), "list") == ["\u2028a\x0cb.png"]  # no ends of lines
    assert paths.listed(b"", "list") == []
    with pytest.raises(UserError, match=r"^lis\\nt is UTF-16 text; save it as UTF-8\.$"):
        paths.listed("a.png\n".encode("utf-16"), "lis\nt")


def test_text_is_utf_8():
    assert paths.as_text(b"\xef\xbb\xbfcaf\xc3\xa9\r\n", "names.txt") == "caf\u00e9\r\n"
    with pytest.raises(UserError, match=r"^names\.txt, line 3: it is no UTF-8 text; save it as UTF-8\.$"):
        paths.as_text(b"a\nb\n\xe9", "names.txt")
