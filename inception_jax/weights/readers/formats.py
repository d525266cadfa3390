"""Recognises file formats by first and last bytes, and names the module that reads each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inception_jax.errors import UserError, printable
from inception_jax.paths import check_regular, open_regular
from inception_jax.weights.readers.statement import Statement

Items = Iterator[tuple[str, np.ndarray] | Statement]


class Format(NamedTuple):
    """A file format: its name, its suffixes, and the module whose `read(path, budget)` returns `Items`."""

    name: str
    suffixes: tuple[str, ...]
    module: str


PYTORCH = Format("PyTorch", (".pth", ".pt", ".bin", ".tar"), "pytorch")
SAFETENSORS = Format("safetensors", (".safetensors",), "safe")
KERAS = Format("Keras", (".h5", ".hdf5", ".keras"), "keras")
TENSORFLOW = Format("TensorFlow", (".ckpt", ".index"), "tensorflow")
CAFFE = Format("Caffe", (".caffemodel",), "caffe")
ONNX = Format("ONNX", (".onnx",), "onnx_graph")
GRAPH = Format("TensorFlow graphs", (".pb",), "frozen_graph")
FORMATS = (PYTORCH, SAFETENSORS, KERAS, TENSORFLOW, CAFFE, ONNX, GRAPH)
ALLOWED = "; ".join(f"{each.name} ({', '.join(each.suffixes)})" for each in FORMATS)
TORCHSCRIPT = Format("TorchScript", (), "torchscript")
ZIP = Format("zip", (), "archives")
"""PyTorch, TorchScript or Keras, depending on the members of the archive; the reading process finds out."""
NPZ = Format("NumPy", (".npz",), "npz")
"""Activations to compare with, not weights."""

TABLE_END = bytes.fromhex("57fb808b247547db")  # of TensorFlow's V1 checkpoints and V2 indices
OTHERS = (  # files that are no weights: (offset, bytes there, description)
    (0, b"\x1f\x8b", "a gzip archive (unpack it first)"),
    (257, b"ustar", "a tar archive (unpack it first)"),
    (0, b"<", "a web page (the download failed)"),
    (0, b"version https://git-lfs", "a pointer of Git LFS (fetch the file itself)"),
)


def named(name: str) -> Format:
    """Returns the format of this name."""
    return next(each for each in (*FORMATS, TORCHSCRIPT, ZIP, NPZ) if each.name == name)


def format_of(path: Path) -> tuple[Format, int]:
    """Returns the format of a file, by its first and last bytes or else by its suffix, and its size in bytes.

    Raises:
      UserError: the file is not regular, cannot be read, is empty, or is of no known format.
    """
    if path.is_dir():
        raise UserError(f"{printable(path)} is a folder; give the file in it. Allowed: {ALLOWED}.")
    if re.fullmatch(r"\.data-\d{5}-of-\d{5}", path.suffix) or has_index(path):
        return TENSORFLOW, sum(each.stat().st_size for each in files_of(path))
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            head = file.read(512)
            file.seek(max(0, size - len(TABLE_END)))
            tail = file.read(len(TABLE_END))
        except OSError as error:
            raise UserError(f"{printable(path)} cannot be read: {error.strerror}. Allowed: {ALLOWED}.") from error
    if not size:
        raise UserError(f"{printable(path)} is empty.")
    found = _by_content(path, head, tail, size) or by_suffix(path)
    if found is None:
        raise UserError(f"{printable(path)} is of no known kind: it begins with {head[:8]!r}. Allowed: {ALLOWED}.")
    return found, size if found is not TENSORFLOW else sum(each.stat().st_size for each in files_of(path))


def by_suffix(path: Path) -> Format | None:
    """Returns the format with the suffix of `path`; None: no format has it."""
    return next((each for each in FORMATS if path.suffix in each.suffixes), None)


def has_index(path: Path) -> bool:
    """Returns whether `path` is the prefix of a TensorFlow V2 checkpoint; the prefix itself is no file."""
    return bool(path.name) and not path.exists() and path.with_name(f"{path.name}.index").is_file()


def prefix_of(path: Path) -> Path:
    """Returns the prefix of a TensorFlow checkpoint, given the prefix or one of its files."""
    return path.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name))


def files_of(path: Path) -> list[Path]:
    """Returns the files of a TensorFlow checkpoint: one for V1; for V2 an index and data files.

    Raises:
      UserError: one of them is not a regular file.
    """
    prefix = prefix_of(path)
    pattern = re.compile(re.escape(prefix.name) + r"(\.index|\.data-\d{5}-of-\d{5})?")
    with os.scandir(prefix.parent) as entries:
        found = sorted(Path(each.path) for each in entries if pattern.fullmatch(each.name))
    for each in found:
        check_regular(each)
    return found


def _by_content(path: Path, head: bytes, tail: bytes, size: int) -> Format | None:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return KERAS
    if head.startswith(b"PK\x03\x04"):
        return ZIP
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):  # a pickle and its protocol
        return PYTORCH
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size:  # the length of the header, and JSON
        return SAFETENSORS
    if tail == TABLE_END:
        return TENSORFLOW
    for offset, magic, description in OTHERS:
        if head[offset:].startswith(magic):
            raise UserError(f"{printable(path)} is {description}. Allowed: {ALLOWED}.")
    return None
