"""Tensors by name from weight files of other frameworks. Reading runs nothing that a file holds.

Their names: PyTorch's and those of safetensors as they are ("conv1.conv.weight"), less a "module." before them all;
Keras's by layer and variable ("conv2d_1/kernel"), in the order of the file; TensorFlow's as they are
("InceptionV3/Conv2d_1a_3x3/weights"); Caffe's by layer and place ("conv1/7x7_s2/0" is its weight, ".../1" its bias).
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from inception_jax.errors import UserError
from inception_jax.weights.readers import caffe, keras, pytorch, tensorflow
from inception_jax.weights.readers.refusal import MissingPackage, Refused

Pairs = Iterable[tuple[str, np.ndarray]]


class Format(NamedTuple):
    """A kind of file: its name, the suffixes it goes by, and what reads it."""

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], Pairs]


PYTORCH = Format("PyTorch", (".pth", ".pt", ".bin", ".tar"), pytorch.read)
SAFETENSORS = Format(
    "safetensors", (".safetensors",), lambda path: pytorch.without_module(safetensors.numpy.load_file(path)).items()
)
KERAS = Format("Keras", (".h5", ".hdf5", ".keras"), keras.read)
TENSORFLOW = Format("TensorFlow", (".ckpt", ".index"), tensorflow.read)
CAFFE = Format("Caffe", (".caffemodel",), caffe.read)
FORMATS = (PYTORCH, SAFETENSORS, KERAS, TENSORFLOW, CAFFE)
ALLOWED = "; ".join(f"{each.name} ({', '.join(each.suffixes)})" for each in FORMATS)

TABLE_END = bytes.fromhex("57fb808b247547db")  # of TensorFlow's V1 checkpoints and V2 indices
OTHERS = (  # what people have in place of a weight file: (offset, bytes, words)
    (0, b"\x1f\x8b", "a gzip archive (unpack it first)"),
    (257, b"ustar", "a tar archive (unpack it first)"),
    (0, b"<", "a web page (the download failed)"),
    (0, b"version https://git-lfs", "a pointer of Git LFS (fetch the file itself)"),
)


def read_tensors(source: Any) -> dict[str, np.ndarray]:
    """Returns the tensors of a file or of a live Keras model by the names that it gives them.

    Floating-point tensors come as they are, those of 16 bits as float32; integers come as they are.

    Args:
      source: a path; a TensorFlow checkpoint also goes by its prefix; or a Keras model (anything that has `layers`).

    Raises:
      UserError: there is no such file, it is of no known kind, it is damaged, it holds something else than tensors, or
        reading it needs a package that is not installed or code that the file brings along.
    """
    if hasattr(source, "layers"):
        title = f"The model {getattr(source, 'name', type(source).__name__)!r} cannot be taken:"
        return _collect(title, keras.read_model, source)
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"Weights come from a path or a Keras model, not from {type(source).__name__} {source!r}.")
    path = Path(source)
    file_format = _format_of(path)
    return _collect(f"{path} looks like a file of {file_format.name}, but", file_format.read, path)


def _collect(title: str, read: Callable[[Any], Pairs], source: Any) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    try:
        for name, array in read(source):
            if name in tensors:
                raise Refused(f"it holds {name!r} twice")
            tensors[name] = _as_numbers(name, array)
    except MissingPackage as error:
        raise UserError(f"{source} is read with {error}.") from error
    except Refused as error:
        raise UserError(f"{title} {error}.") from error
    except Exception as error:  # libraries raise whatever they like on damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise UserError(f"{title} it cannot be read: {reason}.") from error
    if not tensors:
        raise UserError(f"{title} it holds no tensors.")
    return tensors


def _as_numbers(name: str, array: np.ndarray) -> np.ndarray:
    native = array.dtype.newbyteorder("=")
    if native in (np.float32, np.float64) or native.kind in "iu":
        return array.astype(native, copy=False)
    if native.name in ("float16", "bfloat16"):
        return array.astype(np.float32)
    raise Refused(f"{name!r} has the type {array.dtype}, not a number of 16 bits or more")


def _format_of(path: Path) -> Format:
    """Returns the format by the first bytes of the file, or else by its suffix."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the file in it. Allowed: {ALLOWED}.")
    if re.fullmatch(r"\.data-\d{5}-of-\d{5}", path.suffix) or tensorflow.has_index(path):
        return TENSORFLOW
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(max(0, size - len(TABLE_END)))
            tail = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Allowed: {ALLOWED}.") from error
    if not size:
        raise UserError(f"{path} is empty.")
    found = _by_content(path, head, tail, size) or next((f for f in FORMATS if path.suffix in f.suffixes), None)
    if found is None:
        raise UserError(f"{path} is of no known kind: it begins with {head[:8]!r}. Allowed: {ALLOWED}.")
    return found


def _by_content(path: Path, head: bytes, tail: bytes, size: int) -> Format | None:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return KERAS
    if head.startswith(b"PK\x03\x04"):
        return _by_members(path)
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):  # a pickle and its protocol
        return PYTORCH
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size:  # the length of the header, and JSON
        return SAFETENSORS
    if tail == TABLE_END:
        return TENSORFLOW
    for offset, magic, words in OTHERS:
        if head[offset:].startswith(magic):
            raise UserError(f"{path} is {words}. Allowed: {ALLOWED}.")
    return None


def _by_members(path: Path) -> Format | None:
    """Returns the format of a zip archive, or None if its list of members is lost."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return None
    if "constants.pkl" in members:
        raise UserError(f"{path} is a TorchScript archive, which holds code; save the model's state_dict instead.")
    if "data.pkl" in members:
        return PYTORCH
    if keras.CONFIG in members:
        return KERAS
    raise UserError(f"{path} is a zip archive without weights; it holds {sorted(members)[:4]}. Allowed: {ALLOWED}.")
