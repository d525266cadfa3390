"""Archives: the format of a zip archive, and the checkpoint in a .tar.gz, unpacked within the budget."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from inception_jax.errors import UserError, first_line, printable
from inception_jax.paths import open_regular
from inception_jax.weights.readers.budget import Budget, Limits
from inception_jax.weights.readers.formats import ALLOWED, KERAS, PYTORCH, TORCHSCRIPT, Format, by_suffix
from inception_jax.weights.readers.refusal import Refused

KERAS_CONFIG = "config.json"
CHECKPOINT = re.compile(r"\.ckpt(\.index|\.data-\d+-of-\d+)?$")
BLOCK = 1 << 20


def inner_format(path: Path, budget: Budget) -> Format:
    """Returns the format of a zip archive, by its members; by its suffix if the list of members is damaged.

    Raises:
      UserError: the archive is of no known format.
    """
    try:
        with open_zip(path, budget) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        members = set()
        if found := by_suffix(path):
            return found
    if "data.pkl" in members:
        return TORCHSCRIPT if "constants.pkl" in members else PYTORCH
    if KERAS_CONFIG in members:
        return KERAS
    raise UserError(
        f"{printable(path)} is a zip archive without weights; it holds {sorted(members)[:4]}. Allowed: {ALLOWED}."
    )


def open_zip(source: Path | IO[bytes], budget: Budget) -> zipfile.ZipFile:
    """Opens a zip archive that has no more members than the budget allows.

    Raises:
      Refused: it has more members.
      zipfile.BadZipFile: it is not a zip archive.
    """
    archive = zipfile.ZipFile(source)
    try:
        budget.entry(len(archive.filelist))
    except Refused:
        archive.close()
        raise
    return archive


def member(archive: zipfile.ZipFile, name: str, budget: Budget, is_text: bool = False) -> bytes:
    """Returns the bytes of a member. Their number is checked before they are unpacked.

    Raises:
      Refused: there is no such member, or its stated size exceeds the budget.
    """
    if name not in archive.namelist():
        raise Refused(f"it has no {name}")
    size = archive.getinfo(name).file_size  # zipfile unpacks no more than the size that a member states
    if is_text:
        budget.text(size, f"its {name}")
    budget.take(size, f"its {name} claims too much")
    return archive.read(name)


class _Bounded(io.RawIOBase):
    """A stream that is decompressed block by block, and refuses to exceed the budget.

    It supports only what `tarfile` needs: reading forward, skipping members by `seek`, and reading the last byte of
    each again.
    """

    def __init__(self, file: IO[bytes], budget: Budget):
        self._file, self._budget = file, budget
        self._position = self._end = 0  # of the reader, and of the decompressed bytes
        self._last = b""  # the byte before the end

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= BLOCK:
            raise Refused(f"a header in it claims {size:,} bytes")
        again = self._last if size and self._position < self._end else b""
        found = again + self._more(size - len(again))
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._end - 1:
            raise Refused("it cannot be read in one go")
        while self._end < offset and self._more(min(BLOCK, offset - self._end)):
            pass
        self._position = min(offset, self._end)
        return self._position

    def _more(self, size: int) -> bytes:
        if self._end + size > self._budget.limits.bytes:
            raise Refused(f"it unpacks to over {self._budget.limits.bytes:,} bytes")
        self._budget.entry(0)  # asks for the time
        found = self._file.read(size)
        self._end += len(found)
        self._last = found[-1:] or self._last
        return found


def unpack_checkpoint(source: Path, folder: Path, limits: Limits | None = None) -> Path:
    """Unpacks the TensorFlow checkpoint in a .tar.gz archive, as TF-slim publishes them; returns its path.

    Raises:
      UserError: the file is no such archive, is damaged, does not hold exactly one checkpoint, or exceeds the limits.
    """
    with open_regular(source) as file:
        limits = limits or Limits.of(file.seek(0, io.SEEK_END))
        file.seek(0)
        budget = Budget(limits)
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            bounded = _Bounded(cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file, budget)
            with tarfile.open(fileobj=bounded, mode="r:") as archive:
                for each in _members(archive, budget):
                    _write(archive, each, folder)
        except Refused as error:
            raise UserError(f"{printable(source)} is not unpacked: {error}.") from error
        except Exception as error:  # tarfile and zlib raise whatever they like on damaged files
            raise UserError(f"{printable(source)} cannot be unpacked: {first_line(error)}.") from error
    checkpoints = sorted(path for path in folder.iterdir() if path.suffix in (".ckpt", ".index"))
    if len(checkpoints) != 1:
        raise UserError(f"{printable(source)} holds {len(checkpoints)} checkpoints; it must hold one.")
    return checkpoints[0]


def _members(archive: tarfile.TarFile, budget: Budget) -> Iterator[tarfile.TarInfo]:
    """Yields the files of checkpoints one by one; the stated size of each counts before the next header is read."""
    while (found := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it keeps all headers, of which there may be millions
        budget.entry()
        if CHECKPOINT.search(found.name):
            if not found.isreg():
                raise Refused(f"{found.name!r} in it is no regular file")
            budget.take(found.size, f"{found.name!r} claims too much")
            yield found


def _write(archive: tarfile.TarFile, each: tarfile.TarInfo, folder: Path) -> None:
    """Writes a member into `folder` under its base name; folders, links and modes in the archive are ignored."""
    target = folder / PurePosixPath(each.name).name
    if target.exists():
        raise Refused(f"it holds {target.name!r} twice")
    content = archive.extractfile(each)
    assert content is not None  # it is a regular file
    with content, target.open("xb") as file:
        while block := content.read(BLOCK):
            file.write(block)
        if file.tell() != each.size:
            raise Refused(f"{each.name!r} in it is cut short")
