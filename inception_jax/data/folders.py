"""Finds the image files below a folder. Other files are left out, but counted and named in a warning."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection

from inception_jax.data.pixels import IMAGE_SUFFIXES
from inception_jax.errors import UserError, printable

logger = logging.getLogger(__name__)

NAMED = 5  # how many of the left-out files are named
MAX_FOLDERS = 1_000_000  # links can make a few folders an endless tree
JUNK = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin"})


@dataclasses.dataclass
class Found:
    """Files below a folder.

    Attributes:
      files: paths of the wanted files; in each folder sorted by name.
      left_out: number of other files, without hidden ones and those of operating systems.
      examples: the first few other files, and why they are left out.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    left_out: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def leave_out(self, path: str, why: str = "") -> None:
        """Counts a file that is not wanted."""
        self.left_out += 1
        if len(self.examples) < NAMED:
            self.examples.append(f"{printable(path)} ({why})" if why else printable(path))

    def add(self, other: Found) -> None:
        """Adds what was found below another folder."""
        self.files += other.files
        self.left_out += other.left_out
        self.examples = (self.examples + other.examples)[:NAMED]

    def warn(self, folder: str | os.PathLike[str], wanted: Collection[str] = IMAGE_SUFFIXES) -> None:
        """Logs in one line which files of a folder were left out, if any."""
        if self.left_out:
            count = f"{self.left_out:,} file{' is' if self.left_out == 1 else 's are'} left out"
            where = printable(os.fspath(folder))
            names = ", ".join(each.removeprefix(f"{where}/") for each in self.examples)
            names += ", ..." if self.left_out > len(self.examples) else ""
            allowed = ", ".join(sorted(wanted))
            logger.warning("%s: %s: %s; regular files in %s are taken.", where, count, names, allowed)


def find_files(folder: str | os.PathLike[str], suffixes: Collection[str] = IMAGE_SUFFIXES) -> Found:
    """Returns the regular files below a folder, at any depth, whose names end in one of some suffixes.

    Links are followed, except to a folder that contains them. Hidden files and folders are skipped.

    Args:
      folder: the root of the search.
      suffixes: in lower case; compared without regard to case.

    Raises:
      UserError: a folder cannot be read, or there are over MAX_FOLDERS.
    """
    found, folders = Found(), 1
    stack = [_Open(os.fspath(folder), 0)]
    while stack:
        entry = next(stack[-1].entries, None)
        if entry is None:
            done = stack.pop()
            if stack and done.files == len(found.files) and is_named(done.path, suffixes):
                found.leave_out(done.path, "a folder")
        elif is_junk(entry.name):
            continue
        elif is_folder(entry):
            opened = _Open(entry.path, len(found.files))
            if any(opened.identity == each.identity for each in stack):
                found.leave_out(entry.path, "a link to a folder that it is in")
                continue
            folders += 1
            if folders > MAX_FOLDERS:
                raise UserError(f"There are over {MAX_FOLDERS:,} folders below {printable(folder)}; links make such.")
            stack.append(opened)
        elif not is_named(entry.name, suffixes):
            found.leave_out(entry.path)
        elif why := _why_not_read(entry):
            found.leave_out(entry.path, why)
        else:
            found.files.append(entry.path)
    return found


def subfolders(folder: str | os.PathLike[str]) -> tuple[list[str], Found]:
    """Returns the names of the folders in a folder, sorted, and what else lies there, as left out.

    Raises:
      UserError: it cannot be read.
    """
    names, others = [], Found()
    for entry in _entries(os.fspath(folder)):
        if is_junk(entry.name):
            continue
        if is_folder(entry):
            names.append(entry.name)
        else:
            others.leave_out(entry.path, "in no class folder")
    return names, others


def is_named(path: str, suffixes: Collection[str]) -> bool:
    """Returns whether a name ends in one of some suffixes, in any case."""
    return os.path.splitext(path)[1].lower() in suffixes


def is_junk(name: str) -> bool:
    """Returns whether a file or a folder is hidden or left behind by an operating system."""
    return name.startswith(".") or name.lower() in JUNK


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class _Open:
    """A folder of the search, partly read; `files` is the number of files found before it."""

    def __init__(self, path: str, files: int):
        self.path, self.files = path, files
        self.entries = iter(_entries(path))
        state = os.stat(path)
        self.identity = state.st_dev, state.st_ino


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"Cannot read the folder {printable(folder)}: {error.strerror}.") from error


def _why_not_read(entry: os.DirEntry[str]) -> str:
    """Returns why a file cannot be read; "" if it is a regular file."""
    try:
        if entry.is_file():
            return ""
        os.stat(entry.path)
    except OSError:
        return "a dangling link" if entry.is_symlink() else "it vanished"
    return "no regular file"
