"""The names of modules in TF-slim and Keras: see `names`."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping
from typing import cast

from inception_jax.models import spec
from inception_jax.models.network import InceptionNet
from inception_jax.weights.naming.names import Names, Naming, UnitNames, row_units, units


def _slim_block(block: spec.Row | spec.Block, lone: str = "") -> list[str]:
    """Returns `Branch_0/Conv2d_0a_1x1`, ...: letters count the rows of a branch; a reduction is called 1a."""
    names = []
    for i, branch in enumerate(cast(spec.Block, block)):
        letters = iter(string.ascii_lowercase)
        for row in _unfork(branch):
            letter = next(letters)
            if not isinstance(row, spec.Conv):
                continue
            size = "x".join(map(str, row.kernel))
            position = "1a" if row.stride > 1 or row.padding == spec.VALID else f"0{letter}"
            name = lone if lone and len(branch) == 1 and size == "1x1" else f"Conv2d_{position}_{size}"
            names.append(f"Branch_{i}/{name}")
    return names


def _unfork(branch: spec.Branch) -> Iterator[spec.Row]:
    for row in branch:
        if isinstance(row, spec.Row):
            yield row
        else:
            yield from itertools.chain(*row)


def slim(
    scope: str,
    classifier: str,
    aux: Mapping[str, tuple[str, ...]] | None = None,
    irregular: Mapping[str, str] | None = None,
    lone: str = "",
) -> Naming:
    """Returns the naming of one network of TF-slim.

    Args:
      scope: the prefix of all names.
      classifier: the name of the classifier; "": there is none.
      aux: the names of the units of each auxiliary head, by its endpoint.
      irregular: exceptions: the name in the file by the name that the rule gives.
      lone: the name of a 1x1 convolution that is a branch by itself; "": as the rule gives it.
    """
    repeats = {"block35": "Repeat", "block17": "Repeat_1", "block8": "Repeat_2"}

    def naming(model: InceptionNet) -> UnitNames:
        names: dict[str, list[str]] = {}
        for row, block in model.table.items():
            kind = row.partition("_")[0]
            prefix = f"{repeats[kind]}/{row}" if kind in repeats else row
            match block:
                case spec.Conv() | spec.SeparableConv():
                    names[row] = [row]
                case spec.Residual():
                    names[row] = [f"{prefix}/{unit}" for unit in (*_slim_block(block.rows[0], lone), "Conv2d_1x1")]
                case spec.Pool():
                    continue
                case branches:
                    names[row] = [f"{prefix}/{unit}" for unit in _slim_block(branches, lone)]
        names |= {f"aux_{tap}": [f"AuxLogits/{unit}" for unit in of_head] for tap, of_head in (aux or {}).items()}
        names |= {"classifier": [classifier]} if classifier else {}
        full = {
            row: [f"{scope}/{(irregular or {}).get(unit, unit)}" for unit in of_row] for row, of_row in names.items()
        }
        return {row: [Names(unit, f"{unit}/BatchNorm") for unit in of_row] for row, of_row in full.items()}

    return naming


SLIM_V1_IRREGULAR = {"Mixed_5b/Branch_2/Conv2d_0b_3x3": "Mixed_5b/Branch_2/Conv2d_0a_3x3"}
SLIM_V3_IRREGULAR = {
    "Mixed_5c/Branch_1/Conv2d_0a_1x1": "Mixed_5c/Branch_1/Conv2d_0b_1x1",
    "Mixed_5c/Branch_1/Conv2d_0b_5x5": "Mixed_5c/Branch_1/Conv_1_0c_5x5",
    "Mixed_6a/Branch_0/Conv2d_1a_3x3": "Mixed_6a/Branch_0/Conv2d_1a_1x1",
    "Mixed_6a/Branch_1/Conv2d_1a_3x3": "Mixed_6a/Branch_1/Conv2d_1a_1x1",
    "Mixed_7b/Branch_1/Conv2d_0c_3x1": "Mixed_7b/Branch_1/Conv2d_0b_3x1",
}
SLIM_V4_IRREGULAR = {"Mixed_3a/Branch_1/Conv2d_1a_3x3": "Mixed_3a/Branch_1/Conv2d_0a_3x3"}


class _Counter:
    """Numbers layers as Keras does, by order of creation: `conv2d_1`, `batch_normalization_1`, `conv2d_2`, ..."""

    def __init__(self):
        self._counts: dict[str, Iterator[int]] = {}

    def name(self, kind: str) -> str:
        return f"{kind}_{next(self._counts.setdefault(kind, itertools.count(1)))}"

    def units(self, count: int, layer: str = "conv2d", norm: str = "batch_normalization") -> list[Names]:
        return [Names(self.name(layer), self.name(norm)) for _ in range(count)]


def keras_v3(model: InceptionNet) -> UnitNames:
    counter = _Counter()
    names = {row: counter.units(len(paths)) for row, paths in units(model).items() if row in model.table}
    return names | {"classifier": [Names("predictions")]}


def keras_inception_resnet_v2(model: InceptionNet) -> UnitNames:
    counter, names = _Counter(), {}
    for row, block in model.table.items():
        up = isinstance(block, spec.Residual)
        count = len(list(row_units((), block))) - up
        names[row] = [Names("conv_7b", "conv_7b_bn")] if row == "Conv2d_7b_1x1" else counter.units(count)
        if up:
            names[row].append(Names(f"{'block8_10' if row == 'Block8' else row}_conv"))
    return names | {"classifier": [Names("predictions")]}


def keras_xception(model: InceptionNet) -> UnitNames:
    counter, names = _Counter(), {}
    for row, block in model.table.items():
        if not isinstance(block, spec.Residual):
            names[row] = [Names(row, f"{row}_bn")]
            continue
        count = sum(isinstance(each, spec.SeparableConv) for each in block.rows)
        layers = [f"{row}_sepconv{i}" for i in range(1, count + 1)]
        names[row] = [Names(layer, f"{layer}_bn") for layer in layers] + counter.units(block.shortcut is not None)
    return names | {"classifier": [Names("predictions")]}


def keras1_xception(model: InceptionNet) -> UnitNames:
    """Returns the names in the published file of Keras 1, which numbers all layers, a shortcut before its rows."""
    counter, names = _Counter(), {}
    norm = "batchnormalization"
    for row, block in model.table.items():
        if not isinstance(block, spec.Residual):
            kind = "convolution2d" if isinstance(block, spec.Conv) else "separableconvolution2d"
            names[row] = counter.units(1, kind, norm)
            continue
        shortcut = counter.units(block.shortcut is not None, "convolution2d", norm)
        count = sum(isinstance(each, spec.SeparableConv) for each in block.rows)
        names[row] = counter.units(count, "separableconvolution2d", norm) + shortcut
    return names | {"classifier": [Names("dense_2")]}
