"""Writes TorchScript archives without PyTorch: the pickle of a module, operation by operation, and its storages."""

import struct
import zipfile

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    return b"J" + struct.pack("<i", value)


def known(module, name):
    return b"c" + f"{module}\n{name}\n".encode()


def numbers(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor(key, array, shape=None, strides=None, offset=0):
    """Returns the operations that make a tensor of a storage, by default of all of it."""
    shape = array.shape if shape is None else shape
    strides = [n // array.itemsize for n in array.strides] if strides is None else strides
    storage = known("torch", STORAGES[array.dtype.name])
    storage = b"(" + text("storage") + storage + text(key) + text("cpu") + integer(array.size) + b"tQ"
    hooks = known("collections", "OrderedDict") + b")R"
    arguments = storage + integer(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks
    return known("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def module(name, **attributes):
    """Returns the operations that make a module whose attributes are made by operations."""
    items = b"".join(text(key) + value for key, value in attributes.items())
    return known(f"__torch__.{name}", name.title()) + b")\x81}(" + items + b"ub"


def archive(path, made, storages, root="net"):
    """Writes an archive whose module is made by these operations; `storages` are arrays by key."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/data.pkl", b"\x80\x02" + made + b".")
        file.writestr(f"{root}/code/__torch__.py", "this is code, which nobody compiles")
        file.writestr(f"{root}/constants.pkl", b"\x80\x02).")
        for key, array in storages.items():
            file.writestr(f"{root}/data/{key}", np.ascontiguousarray(array).tobytes())
