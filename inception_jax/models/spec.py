"""The words an architecture table is written in. Plain Python: no JAX, no arrays.

A table maps row names to rows. A row is a convolution, a pool, a normalisation, a residual, or a block: a tuple of
branches that read the same input and are concatenated along the channel axis. A branch is a chain of rows, blocks among
them. `Numerics` says how the rows are read: two lineages of one network share the table and differ here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from inception_jax.suggestions import hint

Padding = Literal["SAME", "VALID"]
SAME: Padding = "SAME"
VALID: Padding = "VALID"


class Init(NamedTuple):
    """Weight initialisation: `scale` is a standard deviation, or with a `fan` the variance times that fan.

    "truncated" is cut at two standard deviations; with a fan what is left has the variance asked for. "uniform" needs a
    fan.
    """

    distribution: Literal["normal", "truncated", "uniform"]
    scale: float
    fan: Literal["fan_in", "fan_out", "fan_avg"] | None = None


class Conv(NamedTuple):
    """Convolution, then batch norm or a bias, then ReLU."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Padding = SAME
    relu: bool = True
    norm: bool = True  # False: a bias in its place, whatever the lineage
    init: Init | None = None  # None: the lineage's


class SeparableConv(NamedTuple):
    """Depthwise convolution, 1x1 convolution, nothing between them (1610.02357, section 3.2); then as after `Conv`."""

    features: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: Padding = SAME
    relu: bool = True
    norm: bool = True
    init: Init | None = None
    multiplier: int = 1  # outputs of the depthwise convolution for each channel


class Pool(NamedTuple):
    """Square max or average pool."""

    kind: Literal["max", "avg"]
    window: int = 3
    stride: int = 1
    padding: Padding = SAME


class AdaptivePool(NamedTuple):
    """Average pool to `output` x `output` pixels, whatever the input size; neighbouring windows may overlap."""

    output: int


class LocalResponseNorm(NamedTuple):
    """y = x / (k + alpha / size * sum of x^2 over `size` neighbouring channels)^beta: alpha is divided by the size."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


class Relu(NamedTuple):
    """ReLU alone, where a table puts one in front of a convolution."""


class Channels(NamedTuple):
    """The channels `start` ... `stop`: the share of a branch in a convolution that several branches read."""

    start: int
    stop: int


class Residual(NamedTuple):
    """ReLU(shortcut(x) + scale * up(rows(x))), each part but the sum optional; only the rows are scaled.

    `up` is a 1x1 convolution with a bias, without norm and ReLU, to the channels of x (1602.07261, section 3.2).
    """

    rows: Branch
    scale: float = 1.0
    up: bool = False
    relu: bool = False
    shortcut: Conv | None = None


Row = Conv | SeparableConv | Pool | AdaptivePool | LocalResponseNorm | Relu | Channels | Residual
Branch = tuple["Row | Block", ...]
Block = tuple[Branch, ...]
Table = Mapping[str, Row | Block]


class AuxHead(NamedTuple):
    """Auxiliary classifier: rows, a hidden layer with ReLU, dropout, a linear layer (1409.4842, section 5).

    Without a hidden layer the linear layer reads the average over height and width (1512.00567, fig. 8). In training
    its loss counts `weight` times.
    """

    rows: Branch = (Pool("avg", 5, 3, VALID), Conv(128))
    hidden: int | None = 1024
    dropout: float = 0.7
    init: Init | None = None  # of the linear layer; None: the lineage's
    weight: float = 0.3  # section 5


class Head(NamedTuple):
    """What stands between global average pooling and the classifier: 1x1 convolutions, which read one pixel.

    `Conv(100, norm=False)` is a fully connected layer with bias and ReLU; `Conv(512, relu=False)` one with batch norm.
    If it is an `embedding`, the output of the last row, divided by its length, is a result of the network (1503.03832,
    section 3), and belongs to the features; otherwise the rows belong to the classifier.
    """

    rows: tuple[Conv, ...] = ()
    embedding: bool = False

    def __str__(self) -> str:
        """Returns it in words, such as "layers of 100 (ReLU), 20 (ReLU)" or "an embedding of 512"."""
        if self.embedding:
            return f"an embedding of {self.rows[-1].features}"
        rows = ", ".join(f"{row.features}{' (ReLU)' if row.relu else ''}" for row in self.rows)
        return f"layers of {rows}" if rows else "nothing"


NO_HEAD = Head()


class BatchNorm(NamedTuple):
    """Constants of batch normalisation; `decay` is that of the running statistics (1 - momentum in PyTorch)."""

    epsilon: float = 1e-3
    decay: float = 0.9
    scale: bool = True  # learn a gamma
    unbiased: bool = True  # the running variance divides by n - 1, the normalisation always by n


class Numerics(NamedTuple):
    """How a lineage reads the rows of a table.

    conv_same     where SAME puts the padding of a strided convolution: "symmetric" (k // 2 on both sides) or "tf" (what
                  is needed to reach ceil(size / stride), the odd pixel on the high side)
    pool_same     the same for a strided SAME pool; "ceil" pads nothing and clips the last window at the border instead;
                  "floor" pads nothing and drops it
    count_padding whether an average pool divides by the whole window at the border, or by what it sees
    norm          batch normalisation, or None: the convolutions then have biases
    conv_bias     whether they have biases beside the norm, too
    """

    conv_same: Literal["symmetric", "tf"]
    pool_same: Literal["ceil", "floor", "symmetric", "tf"]
    count_padding: bool
    norm: BatchNorm | None
    kernel_init: Init
    bias_init: float = 0.0  # of convolutions and hidden layers; classifiers start at zero
    conv_bias: bool = False


GLOROT = Init("uniform", 1.0, "fan_avg")
HE_SLIM = Init("truncated", 2.012, "fan_in")  # 1.3 * 2, times the 0.774 that the cut leaves of a variance

CAFFE = Numerics("symmetric", "ceil", True, None, Init("uniform", 1.0, "fan_in"), bias_init=0.2)
TORCH = Numerics("symmetric", "ceil", True, BatchNorm(), Init("normal", 0.01))
TF = Numerics("tf", "tf", False, BatchNorm(decay=0.9997, scale=False, unbiased=False), Init("normal", 0.01))
KERAS = TF._replace(norm=BatchNorm(decay=0.99, scale=False, unbiased=False), kernel_init=GLOROT)

CADENE = Numerics("symmetric", "ceil", True, BatchNorm(1e-5, decay=0.1), CAFFE.kernel_init, conv_bias=True)
TORCH_V3 = TORCH._replace(kernel_init=Init("normal", 0.1))
TF_V3 = TF._replace(kernel_init=HE_SLIM)
TIMM = TORCH._replace(count_padding=False)
FACENET = TF._replace(norm=BatchNorm(decay=0.995, scale=False, unbiased=False), kernel_init=Init("truncated", 0.1))
KERAS_XCEPTION = KERAS._replace(norm=BatchNorm(decay=0.99, unbiased=False))
TIMM_XCEPTION = TORCH._replace(
    pool_same="symmetric", norm=BatchNorm(epsilon=1e-5), kernel_init=Init("normal", 2.0, "fan_out")
)


def module_name(name: str, row: Row | Block) -> str:
    """Returns what the row `name` of a table is called among the parameters: `3a` is no name for a module."""
    return name if isinstance(row, Row) else f"inception_{name}"


def branches_of(block: Block) -> Block:
    """Returns the branches of a block.

    Raises:
      TypeError: it is a row of a kind that is not known here. Rows are tuples, too, and would pass for blocks.
    """
    if type(block) is not tuple:
        raise TypeError(f"{type(block).__name__} is no kind of row; docs/ADDING_A_MODEL.md says what a new one needs.")
    return block


def for_channels(table: Table, channels: int) -> Table:
    """Returns the table for images of so many channels.

    Only that for grey images differs, and only if its first row is separable: the depthwise convolution makes as many
    outputs of one channel as of three, so that the kernels for RGB, which are then summed, can be kept.
    """
    name, row = next(iter(table.items()))
    if channels > 1 or not isinstance(row, SeparableConv):
        return table
    return {**table, name: row._replace(multiplier=3 * row.multiplier)}


def last_frozen(table: Table, freeze: str) -> str | None:
    """Returns the last row that training leaves as it is: "none", "backbone" (every row) or "up_to:ENDPOINT".

    Raises:
      ValueError: `freeze` is none of the three, or names no row of the table.
    """
    form, _, endpoint = freeze.partition(":")
    if freeze == "none":
        return None
    if freeze == "backbone":
        return list(table)[-1]
    if form != "up_to":
        raise ValueError(f"freeze is {freeze!r}; it must be none, backbone or up_to:ENDPOINT.")
    if endpoint not in table:
        near = hint(endpoint, table)
        raise ValueError(
            f"freeze is {freeze!r}; the model has no endpoint {endpoint!r}.{near} All: {', '.join(table)}."
        )
    return endpoint
