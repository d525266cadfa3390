"""The head of a file: what stands between the pooled features and the classes, found by structure and not by name.

A chain of linear layers is taken: the last is the classifier, the others are rows of `spec.Head`. A batch norm in the
chain is folded into the linear layer beside it, which changes no value. `Untaken` says why another head is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from inception_jax.errors import printable
from inception_jax.models import spec
from inception_jax.weights import keras_head
from inception_jax.weights.head_layers import Element, Linear, Module, Norm, Other, Untaken, by_shapes, modules_of
from inception_jax.weights.naming.layouts import Layout
from inception_jax.weights.naming.lineages import Lineage, Tensors
from inception_jax.weights.naming.names import Names
from inception_jax.weights.readers.statement import Layer

NO_WEIGHTS = re.compile(
    r"(^|\.)(\w+_)?(criterion|loss(es|_fn|_func)?|metrics?|acc(uracy)?|auroc|f1(_score)?|confmat)\.", re.IGNORECASE
)
"""The names of tensors of losses and metrics, which Lightning saves beside those of the network."""


class Found(NamedTuple):
    """A head that can be taken.

    Attributes:
      lineage: with the names of this head.
      tensors: of the head, as the slots of the lineage read them.
      outputs: of the classifier.
      strays: the names of tensors that belong neither to body nor to head.
      notes: for the report.
    """

    lineage: Lineage
    tensors: dict[str, np.ndarray]
    outputs: int
    strays: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find(
    tensors: Tensors,
    lineage: Lineage,
    features: int,
    own: Sequence[Names] = (),
    layers: Sequence[Layer] = (),
    body: Sequence[Layer] = (),
) -> Found | None:
    """Returns the head that these tensors are; None: there is none.

    Args:
      tensors: what the body does not have.
      lineage: of the body.
      features: how many numbers the body returns.
      own: the names of the rows that the lineage itself has before its classifier, such as an embedding.
      layers, body: those behind the body and those of the body, of a Keras model that lists them (`keras_head.split`).

    Raises:
      Untaken: the tensors are no head that our networks have.
    """
    modules = modules_of(tensors, lineage.layout)
    plain = {name: each for name, each in modules.items() if not isinstance(each, Other)}
    others = [each for each in modules.values() if isinstance(each, Other)]
    notes: tuple[str, ...] = ()
    elements: list[Element] = []
    if body:
        elements = keras_head.chain(body, layers, modules)
        others = [each for each in others if each.name not in {layer.name for layer in layers}]
    elif plain:
        elements, notes = by_shapes(plain, features)
    if not any(isinstance(each, Linear) for each in elements):
        if modules:
            raise Untaken("it has no linear layer")
        return None
    chain, more = _assembled(elements)
    its = _with_names(lineage, chain, features, own)
    strays = tuple(name for each in others for name in each.shapes)
    theirs = _as_theirs(chain, lineage.layout)
    return Found(its, theirs, chain[-1].kernel.shape[1], strays, (*notes, *more))


def described(tensors: Tensors, layout: Layout) -> str:
    """Returns what a head consists of, for a message: its modules and their shapes."""
    modules: list[Module] = list(modules_of(tensors, layout).values())
    return ", ".join(map(str, modules[:6])) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")


def _with_names(lineage: Lineage, chain: Sequence[Linear], features: int, own: Sequence[Names]) -> Lineage:
    """Returns the lineage with the names of the layers of a chain, and its rows."""
    reads = features
    for each in chain:
        if each.kernel.shape[0] != reads:
            raise Untaken(f"{each} does not read the {reads} numbers before it")
        reads = each.kernel.shape[1]
    if own and len(chain) > 1:
        raise Untaken(f"{len(chain)} linear layers follow {own[-1].layer}, where one does")
    names = [Names(each.name) for each in chain]
    rows = tuple(spec.Conv(each.kernel.shape[1], relu=each.relu, norm=False) for each in chain[:-1])
    head = lineage.head if own else spec.Head(rows)
    return lineage.with_head(head, own or names[:-1], names[-1])


def _as_theirs(chain: Iterable[Linear], layout: Layout) -> dict[str, np.ndarray]:
    """Returns the tensors of linear layers under their names and in the layout of a lineage."""
    found = {}
    for each in chain:
        kernel = each.kernel.T if layout.outputs_first else each.kernel
        bias = np.zeros(each.kernel.shape[1], np.float32) if each.bias is None else each.bias
        found[each.name + layout.leaves["linear", "kernel"]] = kernel[None, None] if layout.linear_as_conv else kernel
        found[each.name + layout.leaves["linear", "bias"]] = bias
    return found


def _assembled(elements: Sequence[Element]) -> tuple[list[Linear], list[str]]:
    """Returns the linear layers of a chain with their activations and with the batch norms folded in, and notes."""
    ends = str(elements[-1]) if elements[-1:] and elements[-1] in ("softmax", "log_softmax", "sigmoid") else ""
    chain: list[Linear] = []
    notes: list[str] = []
    waiting: Norm | None = None  # for the next linear layer
    for each in elements[:-1] if ends else elements:
        if isinstance(each, Linear):
            chain.append(each if waiting is None else _behind(waiting, each))
            waiting = None
        elif isinstance(each, Norm):
            if waiting is not None:
                raise Untaken(f"its {each} stands behind another")
            if chain and not chain[-1].relu:
                chain[-1] = _before(chain[-1], each)
            else:
                waiting = each
            notes.append(f"its {each} is folded into the linear layer beside it")
        elif each == "relu" and chain and waiting is None:
            chain[-1] = chain[-1]._replace(relu=True)
        else:
            raise Untaken(
                f"the activation {printable(each)!r} stands where ours have none, or relu behind a linear layer"
            )
    if waiting is not None or chain[-1].relu:
        raise Untaken("it does not end in a linear layer, whose outputs are classes")
    notes += [f"its {each} has no bias; zeros stand for it" for each in chain if each.bias is None]
    if ends == "sigmoid":
        chain[-1] = _with_complement(chain[-1])
        notes.append("its one output with a sigmoid becomes two classes: 1 is the output, 0 its complement")
    return chain, notes


def _before(linear: Linear, norm: Norm) -> Linear:
    """Returns a linear layer and a batch norm behind it as one linear layer."""
    if norm.mean.size != linear.kernel.shape[1]:
        raise Untaken(f"its {norm} does not fit behind {linear}")
    a, b = norm.affine()
    bias = b if linear.bias is None else linear.bias * a + b
    return linear._replace(kernel=(linear.kernel * a).astype(np.float32), bias=bias.astype(np.float32))


def _behind(norm: Norm, linear: Linear) -> Linear:
    """Returns a batch norm and a linear layer behind it as one linear layer."""
    if norm.mean.size != linear.kernel.shape[0]:
        raise Untaken(f"its {linear} does not fit behind {norm}")
    a, b = norm.affine()
    bias = b @ linear.kernel if linear.bias is None else b @ linear.kernel + linear.bias
    return linear._replace(kernel=(linear.kernel * a[:, None]).astype(np.float32), bias=bias.astype(np.float32))


def _with_complement(linear: Linear) -> Linear:
    """Returns a linear layer with the output z as one with 0 and z, whose softmax is (1 - sigmoid(z), sigmoid(z))."""
    outputs = linear.kernel.shape[1]
    if outputs != 1:
        raise Untaken(f"each of its {outputs} outputs has a sigmoid of its own, and our classes exclude each other")
    bias = np.zeros(1, np.float32) if linear.bias is None else linear.bias
    return linear._replace(
        kernel=np.concatenate([np.zeros_like(linear.kernel), linear.kernel], axis=1),
        bias=np.concatenate([np.zeros_like(bias), bias]),
    )
