"""Graphs in files (ONNX): which model one is, and its tensors as the model has them.

Names in graphs say little: exporters rename tensors, and fold batch norms into convolutions. So a graph is compared
with a table as a whole, operator by operator: kernels, strides, padding, pools, and where ReLU stands.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import NamedTuple

import numpy as np

from inception_jax.errors import UserError
from inception_jax.models import inputs, sizes, spec, zoo
from inception_jax.models.network import InceptionNet
from inception_jax.models.steps import Size, Step, out_size, steps
from inception_jax.weights import files
from inception_jax.weights.files import Report, Weights
from inception_jax.weights.naming import layouts, names
from inception_jax.weights.naming.lineages import LINEAGES, Lineage
from inception_jax.weights.readers.statement import Operator, Statement

ORIGIN = "onnx"
Tensors = dict[str, np.ndarray]


class Found(NamedTuple):
    """The lineage of a graph, its tensors under the names of that lineage, the numerics, and notes for the report."""

    lineage: Lineage
    tensors: Tensors
    numerics: spec.Numerics
    notes: tuple[str, ...]


def lineage_of(tensors: Tensors, statement: Statement, name: str | None, shown: str) -> Found:
    """Returns the lineage of a graph, its tensors as that model has them, and notes for the report.

    Args:
      tensors, statement: of the file.
      name: the model; None: found by the operators of the graph.
      shown: the file, for messages.

    Raises:
      UserError: the graph is none of the models, or not that of `name`.
    """
    model = find_model(statement, name, shown)
    lineage = next(each for each in LINEAGES if (each.origin, each.model) == (ORIGIN, model.name_in_zoo))
    hidden = [each for each in tensors if re.fullmatch(r"linear_\d+\.weight", each)]
    if hidden:
        lineage = _with_head(lineage, _head_of(tensors, hidden, statement.embedding))
    if "classifier.weight" in tensors:
        tensors = {"classifier.bias": np.zeros(len(tensors["classifier.weight"]), np.float32)} | tensors
    numerics = model.numerics
    if numerics.norm and statement.epsilon is not None:
        numerics = numerics._replace(norm=numerics.norm._replace(epsilon=statement.epsilon))
    model = zoo.create_model(lineage.model, num_classes=0, head=lineage.head, numerics=numerics)
    tensors, notes = unfold(tensors, lineage, model)
    return Found(lineage, tensors, numerics, notes)


def _head_of(tensors: Tensors, kernels: list[str], embedding: bool) -> spec.Head:
    """Returns the head whose rows have these kernels; the last one of an embedding has no ReLU."""
    norms = [f"{each.removesuffix('weight')}bn.running_var" in tensors for each in kernels]
    rows = [spec.Conv(len(tensors[each]), norm=norm) for each, norm in zip(kernels, norms, strict=True)]
    return spec.Head((*rows[:-1], rows[-1]._replace(relu=not embedding)), embedding)


def _with_head(lineage: Lineage, head: spec.Head) -> Lineage:
    rows = [names.Names(f"linear_{j}", f"linear_{j}.bn") for j in range(1, len(head.rows) + 1)]
    return lineage.with_head(head, rows, names.Names("classifier"))


def find_model(statement: Statement, name: str | None, shown: str) -> InceptionNet:
    """Returns the model that a graph is, with the numerics of the graph.

    Args:
      statement: of the file.
      name: the only model to compare with; None: all.
      shown: the file, for messages.

    Raises:
      UserError: the graph differs from the model, or from every model; the message names the first difference.
    """
    known = [each.model for each in LINEAGES if each.origin == ORIGIN]
    tried = [each for each in known if name in (None, each)]
    if not tried:
        raise UserError(f"{shown} is a graph, and graphs of {name} are not known; known: {', '.join(known)}.")
    first = statement.operators[0] if statement.operators else Operator("none")
    channels = first.shape[1] if first.kind == "conv" and 1 <= first.shape[1] <= inputs.MAX_CHANNELS else 3
    differences: list[tuple[int, str, str]] = []
    for models in zip(*(_variants(zoo.create_model(each, in_channels=channels)) for each in tried), strict=True):
        for model in models:
            found = difference(statement, model)
            if found is None:
                return model
            differences.append((*found, model.name_in_zoo))
    place, text, nearest = max(differences, key=lambda each: each[0])
    whose = (
        f"is not {nearest}"
        if name
        else f"is none of the {len(tried)} models whose graphs are known; the nearest is {nearest}"
    )
    raise UserError(f"{shown} {whose}: operator {place + 1} of its graph {text}.")


def _variants(model: InceptionNet) -> list[InceptionNet]:
    """Returns the model as it is, and with the average pools and the rounding of max pools that other ports have."""
    own = model.numerics
    pairs = itertools.product((own.pool_same, "floor"), (own.count_padding, not own.count_padding))
    return [model.clone(numerics=own._replace(pool_same=same, count_padding=counts)) for same, counts in pairs]


def difference(statement: Statement, model: InceptionNet) -> tuple[int, str] | None:
    """Returns the position and the text of the first difference between a graph and a model; None: there is none."""
    usual = zoo.model_card(model.name_in_zoo).preprocess.size
    height, width = statement.input_size or (usual, usual)
    size, found = (height, width), statement.operators
    wanted = list(steps(model.table, model.numerics, model.channels or 3, size))
    for i, step in enumerate(wanted):
        if i == len(found):
            return i, f"is missing, where {model.name_in_zoo} has {step}"
        its = _step(found[i], step.reads)
        if its != step:
            return i, f"is {its}, where {model.name_in_zoo} has {step}"
    for row in model.table.values():
        size = out_size(row, size, model.numerics)
    rest = [_step(each, size) for each in found[len(wanted) :]]
    if [each for each in rest if each.kind != "avg" or each.makes != (1, 1)]:  # the global pool
        return len(wanted), f"is {rest[0]}, where {model.name_in_zoo} ends"
    return None


def _step(operator: Operator, size: Size) -> Step:
    """Returns an operator of a graph, which reads `size` pixels, in the terms of a table."""
    kind, shape, strides, pads, rounding, values = operator
    if not shape:
        return Step(kind, values=values)
    low, out = [], []
    for n, k, s, before, after in zip(size, shape[-2:], strides, pads[:2], pads[2:], strict=True):
        if rounding == "tf":
            before, after = sizes.explicit_padding(n, k, s, spec.SAME, "tf")
        more = s - 1 if rounding == "ceil" else 0
        low.append(before)
        out.append((n + before + after + more - k) // max(s, 1) + 1)
    counts = kind == "avg" and low != [0, 0]
    return Step(
        kind, shape, (strides[0], strides[1]), size, (low[0], low[1]), (out[0], out[1]), values if counts else ()
    )


def unfold(tensors: Tensors, lineage: Lineage, model: InceptionNet) -> tuple[Tensors, tuple[str, ...]]:
    """Returns the tensors of a graph with a batch norm behind each convolution where the model has one, and notes.

    Exporters fold batch norms into convolutions. A norm of mean 0, variance 1 - epsilon, scale 1 and the bias of the
    convolution computes the same. The bias of a convolution in front of a norm is taken from the mean.
    """
    slots = lineage.slots(model)
    found, folded = dict(tensors), 0
    has_scale = any(slot.path[-1] == "scale" for slot in slots) or any(
        re.search(r"bn(_\d+)?\.weight$", x) for x in tensors
    )
    for slot in slots:
        if slot.path[-1] != "var" or model.numerics.norm is None:
            continue
        norm, shape = slot.name.removesuffix(".running_var"), slot.their_shape
        bias = found.pop(f"{_layer_of(norm)}.bias", np.zeros(shape, np.float32))
        if slot.name in tensors:
            found[f"{norm}.running_mean"] = tensors[f"{norm}.running_mean"] - bias
            continue
        folded += 1
        found |= {f"{norm}.bias": bias, f"{norm}.running_mean": np.zeros(shape, np.float32)}
        found[slot.name] = np.full(shape, 1 - model.numerics.norm.epsilon, np.float32)
        found |= {f"{norm}.weight": np.ones(shape, np.float32)} if has_scale else {}
    for slot in slots:  # a convolution need not have one
        if slot.path[-1] == "bias" and slot.name not in found:
            found[slot.name] = np.zeros(slot.their_shape, np.float32)
    note = f"{folded} batch norms are folded into convolutions in the file; those here have mean 0 and variance 1"
    return found, (note,) if folded else ()


def _layer_of(norm: str) -> str:
    """Returns the name of the layer in front of a batch norm: conv_7 of bn_7, linear_1 of linear_1.bn."""
    return norm.removesuffix(".bn").replace("bn_", "conv_")


def of_ours(tensors: Tensors, statement: Statement, shown: str) -> Weights:
    """Returns the weights in an ONNX file that `export_onnx` wrote.

    Raises:
      UserError: its metadata cannot be read, or its graph is not that of its model.
    """
    try:
        info = dataclasses.replace(files.from_json(statement.info), aux=False)
        model = info.create_model()
    except ValueError as error:
        raise UserError(f"{shown} has metadata that this version cannot read: {error}.") from error
    size = (info.preprocess.size, info.preprocess.size)
    found = difference(dataclasses.replace(statement, input_size=size), model)
    if found:
        raise UserError(f"{shown} is not the graph of its metadata: operator {found[0] + 1} {found[1]}.")
    lineage = Lineage(ORIGIN, info.model, names.by_order, layouts.ONNX, preprocess=info.preprocess)
    lineage = _with_head(lineage, info.head) if info.head.rows else lineage
    whole, notes = unfold(tensors, lineage, model)
    slots = lineage.slots(model)
    wrong = {slot.name for slot in slots if getattr(whole.get(slot.name), "shape", None) != slot.their_shape}
    wrong ^= whole.keys() - {slot.name for slot in slots}
    if wrong:
        raise UserError(f"{shown} does not hold the tensors of {info.model}: {', '.join(sorted(wrong)[:4])}.")
    flat = {slot.path: slot.to_ours(whole[slot.name].astype(np.float32)) for slot in slots}
    report = Report(
        tuple("/".join(path) for path in flat), notes=(f"from an ONNX file of this package: {shown}", *notes)
    )
    return Weights.of(info, flat, report)
