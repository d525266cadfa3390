"""The layers of a head: which modules tensors belong to, in which order they stand, and what is between them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from inception_jax.errors import printable
from inception_jax.weights.naming.layouts import TORCH, Layout
from inception_jax.weights.naming.lineages import Tensors

TORCH_EPSILON, KERAS_EPSILON = 1e-5, 1e-3  # of their batch norms by default
MOST_LAYERS = 7  # in a head whose order is found by shapes alone


class Untaken(Exception):
    """The head cannot be taken; the message says why, in the middle of a sentence."""


class Linear(NamedTuple):
    """y = x kernel + bias, then ReLU if `relu`. kernel [inputs, outputs]; bias [outputs], or None for zeros."""

    name: str
    kernel: np.ndarray
    bias: np.ndarray | None
    relu: bool = False

    def __str__(self) -> str:
        return f"{printable(self.name)} ({self.kernel.shape[0]} -> {self.kernel.shape[1]})"


class Norm(NamedTuple):
    """A batch norm of C features by its running statistics [C]; an absent scale is one, an absent bias zero."""

    name: str
    mean: np.ndarray
    var: np.ndarray
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    epsilon: float = KERAS_EPSILON

    def __str__(self) -> str:
        return f"{printable(self.name)} (batch norm of {self.mean.size})"

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (a, b) such that the norm computes a x + b, in float64."""
        with np.errstate(invalid="ignore"):  # a negative variance gives NaN, which the conversion refuses
            a = 1 / np.sqrt(self.var.astype(np.float64) + self.epsilon)
        a = a if self.scale is None else a * self.scale
        b = -self.mean * a
        return a, b if self.bias is None else b + self.bias


class Other(NamedTuple):
    """A module that is neither, with the names and shapes of its tensors."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]

    def __str__(self) -> str:
        return f"{printable(self.name)} {', '.join(map(str, self.shapes.values()))}"


Module = Linear | Norm | Other
Element = Linear | Norm | str
"""A link of a chain; a text is an activation."""


def modules_of(tensors: Tensors, layout: Layout) -> dict[str, Module]:
    """Returns the modules that these tensors belong to, by name, in their order."""
    norm, linear = (
        {suffix: leaf for (module, leaf), suffix in layout.leaves.items() if module == kind}
        for kind in ("bn", "linear")
    )
    suffixes = sorted(norm | linear, key=len, reverse=True)
    found: dict[str, dict[str, str]] = {}
    for name, tensor in tensors.items():
        suffix = next((each for each in suffixes if name.endswith(each)), "")
        is_linear = suffix in linear and (tensor.ndim > 1 or suffix not in norm)
        leaf = linear[suffix] if is_linear else norm.get(suffix, "")
        found.setdefault(name.removesuffix(suffix), {})[leaf] = name
    return {
        module: _module(module, {leaf: tensors[name] for leaf, name in names.items()}, layout)
        or Other(module, {name: tensors[name].shape for name in names.values()})
        for module, names in found.items()
    }


def _module(name: str, leaves: dict[str, np.ndarray], layout: Layout) -> Linear | Norm | None:
    """Returns a module with these tensors by our names of the leaves; None: it is no linear layer and no batch norm."""
    bias = leaves.get("bias")
    if "kernel" in leaves and leaves.keys() <= {"kernel", "bias"}:
        kernel = _matrix(leaves["kernel"], layout)
        if kernel is not None and (bias is None or bias.size == kernel.shape[1]):
            return Linear(name, kernel, None if bias is None else bias.reshape(-1))
    if {"mean", "var"} <= leaves.keys() <= {"mean", "var", "scale", "bias"}:
        sizes = {tensor.shape for tensor in leaves.values()}
        if len(sizes) == 1 and len(sizes.pop()) == 1:
            return Norm(name, **leaves, epsilon=TORCH_EPSILON if layout is TORCH else KERAS_EPSILON)
    return None


def _matrix(kernel: np.ndarray, layout: Layout) -> np.ndarray | None:
    """Returns the kernel of a linear layer, or of a 1x1 convolution, as [inputs, outputs]; None: it is another."""
    if kernel.ndim == 4 and kernel.shape[:2] == (1, 1):
        kernel = kernel[0, 0]
    elif kernel.ndim == 4 and kernel.shape[2:] == (1, 1):
        kernel = kernel[:, :, 0, 0]
    if kernel.ndim != 2:
        return None
    return kernel.T if layout.outputs_first else kernel


def by_shapes(modules: Mapping[str, Linear | Norm], features: int) -> tuple[list[Element], tuple[str, ...]]:
    """Returns the chain of modules whose order and activations the file does not state, and notes of what is assumed.

    The order is that of the names, or that of the file, or the only one in which the shapes fit. ReLU is assumed
    between linear layers: behind a batch norm that follows its linear layer at once.

    Args:
      modules: by name, in the order of the file.
      features: that the first one reads.

    Raises:
      Untaken: there is no such order.
    """
    order = _ordered(modules, features)
    before: list[Element] = []
    groups: list[list[Linear | Norm]] = []  # a linear layer and the batch norms behind it
    for each in order:
        if isinstance(each, Linear):
            groups.append([each])
        else:
            (groups[-1] if groups else before).append(each)
    elements = before
    for group in groups:
        near = [each for each in group if _gap(group[0].name, each.name) <= 1]
        far = [each for each in group if _gap(group[0].name, each.name) > 1]
        elements += [*near, *(["relu"] if group is not groups[-1] else []), *far]
    notes = []
    if len(groups) > 1:
        notes.append(f"its head is {', '.join(map(str, order))}; ReLU between its linear layers is assumed")
    epsilons = {each.epsilon for each in order if isinstance(each, Norm)}
    notes += [f"the epsilon of batch norms in its head is assumed to be {each:g}" for each in epsilons]
    *_, last = (each for each in order if isinstance(each, Linear))
    if last.kernel.shape[1] == 1:
        notes.append("its classifier has one output, of which the softmax is always 1: read the logits")
    return elements, tuple(notes)


def _ordered(modules: Mapping[str, Linear | Norm], features: int) -> Sequence[Linear | Norm]:
    natural = sorted(modules.values(), key=lambda each: _natural(each.name))
    for order in (natural, list(modules.values())):
        if _chains(order, features):
            return order
    possible = itertools.permutations(natural) if len(natural) <= MOST_LAYERS else ()
    fitting = list(itertools.islice((order for order in possible if _chains(order, features)), 2))
    if len(fitting) == 1:
        return fitting[0]
    raise Untaken(
        f"the shapes of its layers do not lead from the {features} pooled features to classes in one certain order"
    )


def _chains(order: Iterable[Linear | Norm], features: int) -> bool:
    """Returns whether each module reads what the one before returns, from `features` on, and one of them is linear."""
    has_linear = False
    for each in order:
        if (each.kernel.shape[0] if isinstance(each, Linear) else each.mean.size) != features:
            return False
        if isinstance(each, Linear):
            has_linear, features = True, each.kernel.shape[1]
    return has_linear


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns a key that sorts fc.2 before fc.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _gap(first: str, second: str) -> int:
    """Returns how far two names are apart in a Sequential: 2 of fc.0 and fc.2; 1 for names elsewhere."""
    (stem, _, i), (other, _, j) = first.rpartition("."), second.rpartition(".")
    return int(j) - int(i) if stem == other and i.isdecimal() and j.isdecimal() else 1
