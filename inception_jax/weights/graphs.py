"""Graphs in files (ONNX): which model one is, and its tensors as the model has them.

Names in graphs say little: exporters rename tensors, and fold batch norms into convolutions. So a graph is compared with a
table as a whole, operator by operator: kernels, strides, padding, pools, and where ReLU stands.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from inception_jax.errors import UserError
from inception_jax.models import spec, zoo
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
    """The lineage of a graph, its tensors under the names of that lineage, and notes for the report."""

    lineage: Lineage
    tensors: Tensors
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
    lineage = next(each for each in LINEAGES if (each.origin, each.model) == (ORIGIN, model))
    hidden = [each for each in tensors if each.startswith("linear_") and each.endswith(".weight")]
    if hidden:
        rows = tuple(spec.Conv(len(tensors[each]), norm=False) for each in hidden)
        lineage = _with_head(lineage, spec.Head(rows))
    linear = [each for each in tensors if each.startswith(("linear_", "classifier")) and each.endswith(".weight")]
    biases = {each.replace(".weight", ".bias"): np.zeros(len(tensors[each]), np.float32) for each in linear}
    return Found(lineage, *unfold(biases | tensors, lineage, zoo.create_model(model, head=lineage.head)))


def _with_head(lineage: Lineage, head: spec.Head) -> Lineage:
    rows = [names.Names(f"linear_{j}", f"linear_{j}.bn") for j in range(1, len(head.rows) + 1)]
    return lineage.with_head(head, rows, names.Names("classifier"))


def find_model(statement: Statement, name: str | None, shown: str) -> str:
    """Returns the name of the model that a graph is.

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
    differences = {each: difference(statement, zoo.create_model(each)) for each in tried}
    fitting = [each for each, found in differences.items() if found is None]
    if fitting:
        return fitting[0]
    place, text, nearest = max((*found, each) for each, found in differences.items() if found)
    whose = f"is not {nearest}" if name else f"is none of {', '.join(tried)}; the nearest is {nearest}"
    raise UserError(f"{shown} {whose}: operator {place + 1} of its graph {text}.")


def difference(statement: Statement, model: InceptionNet) -> tuple[int, str] | None:
    """Returns the position and the text of the first difference between a graph and a model; None: there is none."""
    usual = zoo.model_card(model.name_in_zoo).preprocess.size
    height, width = statement.input_size or (usual, usual)
    size, found = (height, width), statement.operators
    wanted = list(steps(model.table, model.numerics, model.channels, size))
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
            before, after = spec.explicit_padding(n, k, s, spec.SAME, "tf")
        more = s - 1 if rounding == "ceil" else 0
        low.append(before)
        out.append((n + before + after + more - k) // max(s, 1) + 1)
    counts = kind == "avg" and low != [0, 0]
    return Step(kind, shape, (strides[0], strides[1]), size, (low[0], low[1]), (out[0], out[1]), values if counts else ())


def unfold(tensors: Tensors, lineage: Lineage, model: InceptionNet) -> tuple[Tensors, tuple[str, ...]]:
    """Returns the tensors of a graph with a batch norm behind each convolution where the model has one, and notes.

    Exporters fold batch norms into convolutions. A norm of mean 0, variance 1 - epsilon, scale 1 and the bias of the
    convolution computes the same. The bias of a convolution before a norm is taken from the mean, if the model has none.
    """
    wanted = {slot.name: slot.their_shape for slot in lineage.slots(model)}
    found, folded = dict(tensors), 0
    has_scale = any(name.startswith("bn_") and name.endswith(".weight") for name in {*tensors, *wanted})
    for name, shape in wanted.items():
        unit, _, leaf = name.partition(".")
        layer = unit.replace("bn_", "conv_")
        if not unit.startswith("bn_") or leaf != "running_var" or model.numerics.norm is None:
            continue
        bias = found.pop(f"{layer}.bias", np.zeros(shape, np.float32))
        if name in tensors:
            found[f"{unit}.running_mean"] = tensors.get(f"{unit}.running_mean", 0) - bias
            continue
        folded += 1
        found |= {f"{unit}.bias": bias, f"{unit}.running_mean": np.zeros(shape, np.float32)}
        found[name] = np.full(shape, 1 - model.numerics.norm.epsilon, np.float32)
        found |= {f"{unit}.weight": np.ones(shape, np.float32)} if has_scale else {}
    found |= {name: np.zeros(shape, np.float32) for name, shape in wanted.items() if _is_absent_bias(name, found)}
    note = f"{folded} batch norms are folded into convolutions in the file; those here have mean 0 and variance 1"
    return found, (note,) if folded else ()


def _is_absent_bias(name: str, found: Tensors) -> bool:
    return name.startswith("conv_") and name.endswith(".bias") and name not in found


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
    report = Report(tuple("/".join(path) for path in flat), notes=(f"from an ONNX file of this package: {shown}", *notes))
    return Weights.of(info, flat, report)
