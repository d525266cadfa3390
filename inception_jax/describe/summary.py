"""Summary of a network in the form of Table 1 (1409.4842): parameters and multiply-adds, by abstract evaluation."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from inception_jax.models import spec, zoo
from inception_jax.models.convolution import Convolution
from inception_jax.models.network import InceptionNet, ModelOutput


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution or linear layer; `path` names its module, and a linear layer has no `kernel` size."""

    path: tuple[str, ...]
    kernel: tuple[int, ...]
    features: int
    weights: int
    biases: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the summary: its kind, its output (H, W, C), its weighted layers and its cost.

    weights, biases  of convolutions and linear layers
    norm             scales and biases of batch normalisation
    macs             multiply-adds of one image
    branches         features of each branch: "64 | 96-128 | 16-32 | 32"; "384-(384 | 384)" for a branch that forks
    """

    name: str
    kind: str
    patch: str
    branches: str
    output: tuple[int, ...]
    depth: int
    weights: int
    biases: int
    norm: int
    params: int
    macs: int
    layers: tuple[Layer, ...]


@dataclasses.dataclass(frozen=True)
class Summary:
    """The rows of a network for one square image; the rows in `aux` exist only in training and not in the totals."""

    model: str
    image_size: int
    width: float
    num_classes: int
    rows: tuple[Row, ...]
    aux: tuple[Row, ...]

    @property
    def totals(self) -> dict[str, int]:
        """Sums over `rows`, and the parameters including those of the auxiliary heads."""
        fields = ("depth", "weights", "biases", "norm", "params", "macs")
        totals = {field: sum(getattr(row, field) for row in self.rows) for field in fields}
        return totals | {"params_with_aux": totals["params"] + sum(row.params for row in self.aux)}

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        return dataclasses.asdict(self) | {"totals": self.totals}


@functools.cache
def summarize(
    name: str,
    image_size: int | None = None,
    width: float = 1.0,
    num_classes: int = 1000,
    aux: bool = True,
    head: spec.Head = spec.NO_HEAD,
    in_channels: int = 3,
) -> Summary:
    """Returns the summary of a model of the zoo on images of `image_size` pixels (None: the card's).

    The other arguments are those of `create_model`.

    Raises:
      ValueError: an unknown name, a value out of range, or an image too small for the model.
    """
    size = zoo.model_card(name).preprocess.size if image_size is None else image_size
    if size < 1:
        raise ValueError(f"image_size is {size}; it must be at least 1.")
    model = zoo.create_model(name, num_classes, aux=aux, width=width, head=head, in_channels=in_channels)
    shapes = trace(model, size)
    rows = _body_rows(model, shapes)
    rows += _head_rows(model, rows[-1].output, shapes)
    logits = (1, 1, num_classes)
    heads = tuple(
        _row(
            name=f"aux {tap}",
            kind="auxiliary head",
            patch="",
            branches=_chain(*map(_words, head.rows), head.hidden, num_classes),
            output=logits,
            depth=_depth(head.rows) + (head.hidden is not None) + 1,
            modules=(f"aux_{tap}",),
            shapes=shapes,
        )
        for tap, head in model.aux_heads.items()
    )
    return Summary(name, size, width, num_classes, tuple(rows), heads)


def headings(table: spec.Table) -> tuple[str, ...] | None:
    """Returns the paper's column names for the convolutions of a block; None: the blocks differ in structure."""
    shapes = {_block_headings(row) for row in table.values() if not isinstance(row, spec.Row)}
    return shapes.pop() if len(shapes) == 1 else None


def features(row: Row, columns: tuple[str, ...]) -> dict[int, int]:
    """Returns the features of the row by the index of their column; a convolution without reduction has no column."""
    if row.kind == "inception":
        return {i: layer.features for i, layer in enumerate(row.layers)}
    if row.kind == "convolution" and len(row.layers) == 2:  # the stem's 3x3 with its reduction
        heading = "#" + _size(row.layers[1].kernel)
        wanted = {f"{heading} reduce": row.layers[0].features, heading: row.layers[1].features}
        return {columns.index(name): value for name, value in wanted.items() if name in columns}
    return {}


class Shapes(NamedTuple):
    """The abstract output of a network, its abstract parameters, and its convolutions and linear layers by path."""

    output: ModelOutput
    params: Mapping[tuple[str, ...], Any]  # by path
    layers: list[Layer]


@functools.cache  # the largest takes a second
def trace(model: InceptionNet, size: int) -> Shapes:
    """Returns the shapes of a network for one square image of `size` pixels, without running it."""
    init = functools.partial(
        model.init_with_output,
        mutable=True,
        capture_intermediates=lambda module, method: (
            isinstance(module, Convolution | nn.Dense) and method == "__call__"
        ),
    )
    output, variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, model.channels)))
    params = traverse_util.flatten_dict(variables["params"])
    calls = traverse_util.flatten_dict(variables["intermediates"])
    layers = []
    for (*path, _), (result,) in calls.items():
        kernel = params[(*path, "kernel")].shape
        bias = params.get((*path, "bias"))
        layers.append(
            Layer(
                path=tuple(path),
                kernel=kernel[:-2],
                features=kernel[-1],
                weights=math.prod(kernel),
                biases=0 if bias is None else bias.size,
                macs=math.prod(kernel) * math.prod(result.shape[1:-1]),
            )
        )
    return Shapes(output, params, sorted(layers, key=lambda layer: layer.path))


def _row(
    name: str,
    kind: str,
    patch: str,
    branches: str,
    output: tuple[int, ...],
    depth: int,
    modules: tuple[str, ...],
    shapes: Shapes,
) -> Row:
    """Returns a row of the summary for some top-level modules of the network; its layers are in their order."""
    layers = tuple(layer for module in modules for layer in shapes.layers if layer.path[0] == module)
    weights, biases = sum(layer.weights for layer in layers), sum(layer.biases for layer in layers)
    total = sum(value.size for path, value in shapes.params.items() if path[0] in modules)
    return Row(
        name=name,
        kind=kind,
        patch=patch,
        branches=branches,
        output=output,
        depth=depth,
        weights=weights,
        biases=biases,
        norm=total - weights - biases,
        params=total,
        macs=sum(layer.macs for layer in layers),
        layers=layers,
    )


def _body_rows(model: InceptionNet, shapes: Shapes) -> list[Row]:
    rows: list[Row] = []
    reduction: tuple[tuple[str, spec.Row | spec.Block], ...] = ()
    for name, table_row in model.table.items():
        if name.endswith("_reduce"):  # the paper counts it with the convolution that follows
            reduction = (*reduction, (name, table_row))
            continue
        merged = (*reduction, (name, table_row))
        kind, patch = _describe(table_row)
        rows.append(
            _row(
                name=name,
                kind=kind,
                patch=patch,
                branches=_chain(*(_words(each) for _, each in merged)),
                output=shapes.output.endpoints[name].shape[1:],
                depth=_depth(tuple(each for _, each in merged)),
                modules=tuple(spec.module_name(*each) for each in merged),
                shapes=shapes,
            )
        )
        reduction = ()
    return rows


def _head_rows(model: InceptionNet, last: tuple[int, ...], shapes: Shapes) -> list[Row]:
    """Returns the rows after the table: none for a network that ends with it."""
    if not (model.num_classes or model.head.rows):
        return []
    height, width, channels = last
    features = (1, 1, channels)
    rows = [_row("pool5", "average pool", f"{height}x{width}/1", "", features, 0, (), shapes)]
    if head := model.head.rows:
        features, kind = (1, 1, head[-1].features), "embedding" if model.head.embedding else "linear"
        rows.append(_row("head", kind, "", _chain(*map(_words, head)), features, len(head), ("head",), shapes))
    if model.num_classes:
        classes = (1, 1, model.num_classes)
        rows += [
            _row("drop", "dropout", f"{model.dropout:.0%}", "", features, 0, (), shapes),
            _row("linear", "linear", "", f"{model.num_classes}", classes, 1, ("classifier",), shapes),
        ]
    return rows


def _describe(row: spec.Row | spec.Block) -> tuple[str, str]:
    """Returns the kind of a row, and patch size / stride."""
    match row:
        case spec.Conv():
            return "convolution", f"{_size(row.kernel)}/{row.stride}"
        case spec.SeparableConv():
            return "separable convolution", f"{_size(row.kernel)}/{row.stride}"
        case spec.Pool():
            return f"{row.kind} pool", f"{row.window}x{row.window}/{row.stride}"
        case spec.AdaptivePool():
            return "average pool", ""
        case spec.LocalResponseNorm():
            return "local response norm", ""
        case spec.Relu():
            return "relu", ""
        case spec.Residual():
            return "residual", ""
        case _:
            return "inception", ""


def _depth(rows: spec.Branch) -> int:
    """Returns the number of weighted layers on the longest path; a separable convolution counts as one."""
    return sum(_row_depth(row) for row in rows)


def _row_depth(row: spec.Row | spec.Block) -> int:
    match row:
        case spec.Conv() | spec.SeparableConv():
            return 1
        case spec.Residual():
            return _depth(row.rows) + row.up
        case spec.Pool() | spec.AdaptivePool() | spec.LocalResponseNorm() | spec.Relu() | spec.Channels():
            return 0
        case block:
            return max(_depth(branch) for branch in block)


def _words(row: spec.Row | spec.Block) -> str:
    """Returns the features of the row's convolutions as text, those of a shortcut after a plus."""
    match row:
        case spec.Conv() | spec.SeparableConv():
            return f"{row.features}"
        case spec.Residual():
            rows = _chain(*map(_words, row.rows))
            return f"{rows} + {row.shortcut.features}" if row.shortcut else rows
        case spec.Pool() | spec.AdaptivePool() | spec.LocalResponseNorm() | spec.Relu() | spec.Channels():
            return ""
        case block:
            chains = (_chain(*(f"({w})" if "|" in w else w for w in map(_words, branch))) for branch in block)
            return " | ".join(chain for chain in chains if chain)


def _chain(*features: str | int | None) -> str:
    return "-".join(f"{part}" for part in features if part)


def _block_headings(block: Any) -> tuple[str, ...]:
    names: list[str] = []
    for branch in block:
        convs = [row for row in branch if isinstance(row, spec.Conv)]
        if len(convs) < len(branch):
            names += ["pool proj"] * len(convs)
            continue
        last = "#" + _size(convs[-1].kernel)
        names += [f"{last} reduce"] * (len(convs) - 1) + [last]
    return tuple(names)


def _size(kernel: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel))
