"""The names of modules in the original implementations, row by row: PyTorch packages and Caffe.

A unit is a convolution with its batch norm, or a linear layer. A naming returns, for each row of a table and each
auxiliary head, the names of its units in the order of the table. Most lineages follow a rule; exceptions are listed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

from inception_jax.models import spec
from inception_jax.models.network import InceptionNet

ParamPath = tuple[str, ...]


class Names(NamedTuple):
    """The names of one unit in an original: its layer, and the batch norm that follows, if any."""

    layer: str
    norm: str = ""


UnitNames = dict[str, list[Names]]  # by row of the table; besides "head", "classifier" and "aux_{tap}"
Naming = Callable[[InceptionNet], UnitNames]


def units(model: InceptionNet) -> dict[str, list[ParamPath]]:
    """Returns the paths of our units by row and head, in the order of the table; `inception_3a/branch2_0` is one."""
    found = {name: list(row_units((spec.module_name(name, row),), row)) for name, row in model.table.items()}
    for tap, head in model.aux_heads.items():
        rows = (f"aux_{tap}",)
        hidden = [(*rows, "hidden")] if head.hidden else []
        found[f"aux_{tap}"] = [*_chain_units(rows, head.rows, "rows"), *hidden, (*rows, "classifier", "linear")]
    found["head"] = list(_chain_units(("head",), model.head.rows, "rows"))
    return found | {"classifier": [("classifier", "linear")]}


def row_units(path: ParamPath, row: spec.Row | spec.Block) -> Iterator[ParamPath]:
    """Yields the paths of the units of the row at `path`; `up` and `shortcut` of a residual come last."""
    match row:
        case spec.Conv() | spec.SeparableConv():
            yield path
        case spec.Residual():
            yield from _chain_units(path, row.rows, "rows")
            if row.up:
                yield (*path, "up")
            if row.shortcut:
                yield (*path, "shortcut")
        case spec.Pool() | spec.AdaptivePool() | spec.LocalResponseNorm() | spec.Relu() | spec.Channels():
            return
        case branches:
            for i, branch in enumerate(branches, start=1):
                yield from _chain_units(path, branch, f"branch{i}")


def _chain_units(path: ParamPath, rows: spec.Branch, prefix: str) -> Iterator[ParamPath]:
    for j, row in enumerate(rows):
        yield from row_units((*path, f"{prefix}_{j}"), row)


def with_head(naming: Naming, rows: Sequence[Names], classifier: Names | None) -> Naming:
    """Returns a naming with these names of the rows between pooling and classifier, and of the classifier, if any."""

    def named(model: InceptionNet) -> UnitNames:
        found = {row: of_row for row, of_row in naming(model).items() if row != "classifier"}
        return found | {"head": list(rows)} | ({"classifier": [classifier]} if classifier else {})

    return named


def conv_bn(*units: str) -> list[Names]:
    """Returns the names of units whose convolution and batch norm are children called `conv` and `bn`."""
    return [Names(f"{unit}.conv", f"{unit}.bn") for unit in units]


def sequential(prefix: str, block: spec.Row | spec.Block, first: int = 0) -> list[str]:
    """Returns `branch0`, `branch1.0`, `branch1.1`, ...: the rows of a branch are numbered, unless it has only one."""
    return [
        f"{prefix}.branch{i}" if len(branch) == 1 else f"{prefix}.branch{i}.{j}"
        for i, branch in enumerate(cast(spec.Block, block), start=first)
        for j, row in enumerate(branch)
        if isinstance(row, spec.Conv)
    ]


def torchvision_googlenet(model: InceptionNet) -> UnitNames:
    names = {"conv1": conv_bn("conv1"), "conv2_reduce": conv_bn("conv2"), "conv2": conv_bn("conv3")}
    for row, block in model.table.items():
        if row[0].isdigit():
            names[row] = conv_bn(*sequential(f"inception{row}", block, first=1))
    heads = {"aux_4a": "aux1", "aux_4d": "aux2"}
    for tap, head in heads.items():
        names[tap] = [*conv_bn(f"{head}.conv"), Names(f"{head}.fc1"), Names(f"{head}.fc2")]
    return names | {"classifier": [Names("fc")]}


V3_BLOCKS = {
    "35": "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool",
    "6a": "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    "17": "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 "
    "branch7x7dbl_5 branch_pool",
    "7a": "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
    "8": "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a "
    "branch3x3dbl_3b branch_pool",
}
V3_ROWS = {
    "Mixed_5b": "35",
    "Mixed_5c": "35",
    "Mixed_5d": "35",
    "Mixed_6a": "6a",
    "Mixed_6b": "17",
    "Mixed_6c": "17",
    "Mixed_6d": "17",
    "Mixed_6e": "17",
    "Mixed_7a": "7a",
    "Mixed_7b": "8",
    "Mixed_7c": "8",
}


def torch_v3(model: InceptionNet) -> UnitNames:
    names = {row: conv_bn(row) for row in model.table if row.startswith("Conv2d")}
    for row, kind in V3_ROWS.items():
        names[row] = conv_bn(*(f"{row}.{unit}" for unit in V3_BLOCKS[kind].split()))
    names["aux_Mixed_6e"] = [*conv_bn("AuxLogits.conv0", "AuxLogits.conv1"), Names("AuxLogits.fc")]
    return names | {"classifier": [Names("fc")]}


V4_FORKS = "branch0 branch1_0 branch1_1a branch1_1b branch2_0 branch2_1 branch2_2 branch2_3a branch2_3b branch3.1"


def timm_v4(model: InceptionNet) -> UnitNames:
    names = {}
    for i, (row, block) in enumerate(model.table.items()):
        prefix = f"features.{i}"
        if isinstance(block, spec.Conv):
            names[row] = conv_bn(prefix)
        elif row in ("Mixed_3a", "Mixed_5a"):
            names[row] = conv_bn(f"{prefix}.conv")
        elif row in ("Mixed_7b", "Mixed_7c", "Mixed_7d"):
            names[row] = conv_bn(*(f"{prefix}.{unit}" for unit in V4_FORKS.split()))
        else:
            names[row] = conv_bn(*sequential(prefix, block))
    return names | {"classifier": [Names("last_linear")]}


def torch_inception_resnet(repeats: tuple[str, str, str], classifier: str) -> Naming:
    """Returns the naming of both versions; `repeats` are the names of the repeated blocks 35, 17 and 8."""
    block_of = dict(zip(("block35", "block17", "block8"), repeats, strict=True))

    def naming(model: InceptionNet) -> UnitNames:
        names = {}
        for row, block in model.table.items():
            kind, _, i = row.partition("_")
            if isinstance(block, spec.Conv):
                conv = row.lower().rpartition("_")[0]  # Conv2d_1a_3x3 is conv2d_1a
                names[row] = conv_bn(conv)
            elif isinstance(block, spec.Residual):
                prefix = f"{block_of[kind]}.{int(i) - 1}" if kind in block_of else "block8"
                names[row] = [*conv_bn(*sequential(prefix, block.rows[0])), Names(f"{prefix}.conv2d")]
            elif not isinstance(block, spec.Pool):
                names[row] = conv_bn(*sequential(row.lower(), block))
        return names | ({"classifier": [Names(classifier)]} if classifier else {})

    return naming


def timm_xception(model: InceptionNet) -> UnitNames:
    names = {"block1_conv1": [Names("conv1", "bn1")], "block1_conv2": [Names("conv2", "bn2")]}
    for i in range(2, 14):
        block, prefix = cast(spec.Residual, model.table[f"block{i}"]), f"block{i - 1}"
        # The original numbers ReLU, separable convolution and norm in turn.
        indices = itertools.count(0 if isinstance(block.rows[0], spec.SeparableConv) else 1, 3)
        separable = [row for row in block.rows if isinstance(row, spec.SeparableConv)]
        names[f"block{i}"] = [
            Names(f"{prefix}.rep.{j}", f"{prefix}.rep.{j + 1}") for _, j in zip(separable, indices, strict=False)
        ]
        if block.shortcut:
            names[f"block{i}"].append(Names(f"{prefix}.skip", f"{prefix}.skipbn"))
    names |= {"block14_sepconv1": [Names("conv3", "bn3")], "block14_sepconv2": [Names("conv4", "bn4")]}
    return names | {"classifier": [Names("fc")]}


MODULE = "1x1 3x3_reduce 3x3 double_3x3_reduce double_3x3_1 double_3x3_2 pool_proj"


def cadene_bn_inception(model: InceptionNet) -> UnitNames:
    layers = {"conv1": ["conv1_7x7_s2"], "conv2_reduce": ["conv2_3x3_reduce"], "conv2": ["conv2_3x3"]}
    for row, block in model.table.items():
        if row[0].isdigit():  # the modules with stride 2 have neither 1x1 branch nor projection
            suffixes = MODULE.split() if len(block) == 4 else MODULE.split()[1:-1]
            layers[row] = [f"inception_{row}_{suffix}" for suffix in suffixes]
    names = {row: [Names(layer, f"{layer}_bn") for layer in of_row] for row, of_row in layers.items()}
    return names | {"classifier": [Names("last_linear")]}


def caffe_googlenet(model: InceptionNet) -> UnitNames:
    names = {"conv1": ["conv1/7x7_s2"], "conv2_reduce": ["conv2/3x3_reduce"], "conv2": ["conv2/3x3"]}
    for row in model.table:
        if row[0].isdigit():
            suffixes = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
            names[row] = [f"inception_{row}/{suffix}" for suffix in suffixes]
    names |= {f"aux_{tap}": [f"loss{i}/{x}" for x in ("conv", "fc", "classifier")] for i, tap in ((1, "4a"), (2, "4d"))}
    names["classifier"] = ["loss3/classifier"]
    return {row: [Names(layer) for layer in layers] for row, layers in names.items()}


def by_order(model: InceptionNet) -> UnitNames:
    """Returns `conv_1` with `bn_1`, ...: in graphs, the readers number units in the order of a table."""
    counter = itertools.count(1)
    paths = units(model)
    names = {}
    for name, row in model.table.items():
        has_norm = model.numerics.norm is not None and getattr(row, "norm", True)
        numbered = [(next(counter), has_norm and path[-1] != "up") for path in paths[name]]
        names[name] = [Names(f"conv_{i}", f"bn_{i}" if normed else "") for i, normed in numbered]
    return names | {"classifier": [Names("classifier")]}


FID_BLOCKS = {row: f"mixed_{i}" if i else "mixed" for i, row in enumerate(V3_ROWS)}


def frozen_v3(model: InceptionNet) -> UnitNames:
    """Returns the names of the graph of 2015: `mixed_1/tower_1/conv_2` is the third convolution of the third branch."""
    stem = [row for row in model.table if row.startswith("Conv2d")]
    names = {row: [f"conv_{i}" if i else "conv"] for i, row in enumerate(stem)}
    for row, block in FID_BLOCKS.items():
        names[row] = [f"{block}/{unit}" for unit in _towers(cast(spec.Block, model.table[row]))]
    named = {row: [Names(unit, f"{unit}/batchnorm") for unit in of_row] for row, of_row in names.items()}
    return named | {"classifier": [Names("softmax")]}


def _towers(block: spec.Block) -> Iterator[str]:
    """Yields `conv`, `tower/conv`, `tower/conv_1`, `tower_1/conv`, ...: a branch of one convolution is no tower."""
    towers = itertools.count()
    for branch in block:
        convolutions = [row for row in branch if not isinstance(row, spec.Pool)]
        if not convolutions:
            continue
        number = "" if len(branch) == 1 else next(towers)
        tower = "" if number == "" else f"tower_{number}/" if number else "tower/"
        for j, row in enumerate(convolutions):
            if isinstance(row, spec.Conv):
                yield f"{tower}conv_{j}" if j else f"{tower}conv"
            else:
                yield from (f"{tower}mixed/conv", f"{tower}mixed/conv_1")


def nvidia_v3(model: InceptionNet) -> UnitNames:
    """Returns the names in the module of StyleGAN2-ADA: those of the graph, behind `layers`.

    In the last two modules the name of a tower is a prefix of its convolutions; in the others it is a module.
    """
    names: UnitNames = {}
    for row, of_row in frozen_v3(model).items():
        separator = "_" if row in ("Mixed_7b", "Mixed_7c") else "."
        for unit in of_row:
            block, slash, rest = unit.layer.partition("/")
            layer = f"layers.{block}.{rest.replace('/', separator)}" if slash else f"layers.{block}"
            names.setdefault(row, []).append(Names(layer, layer))
    return names | {"classifier": [Names("output")]}
