"""Converts tensors of an original to ours and back. Every tensor is used or named, every parameter is set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from flax import traverse_util

from inception_jax import imagenet
from inception_jax.errors import UserError, printable
from inception_jax.models import zoo
from inception_jax.models.network import InceptionNet
from inception_jax.weights.files import Report, Weights, WeightsInfo
from inception_jax.weights.naming.layouts import ONNX, TORCH, Shape, Slot
from inception_jax.weights.naming.lineages import LINEAGES, Lineage, Tensors
from inception_jax.weights.parts import parts_of
from inception_jax.weights.readers.statement import Layer
from inception_jax.weights.recognition import fitting, origins, some

IMAGENET_CLASSES = 1000  # originals with 1000 classes have the order of ILSVRC; the network of the FID has 1008


def convert(
    tensors: Tensors,
    lineage: Lineage,
    *,
    source: str = "",
    sha256: str = "",
    preprocess: zoo.Preprocess | None = None,
    label_offset: int | None = None,
    aux: bool | None = None,
    layers: Sequence[Layer] = (),
    new_classifier: bool = False,
) -> Weights:
    """Returns the tensors of an original as weights of ours.

    The classifiers of auxiliary heads that have other classes than the classifier are left out; `adapt` draws them.

    Args:
      tensors: all tensors of the network, by name.
      lineage: how they are named and laid out. The head may have other names.
      source, sha256: the origin that the report states.
      preprocess: the preprocessing of their input, in RGB; None: that of the lineage, which the report notes.
      label_offset: how many outputs before class 0 to drop; None: 1 of 1001 if the origin has a background class.
      aux: False leaves auxiliary heads out.
      layers: of a Keras model that lists them, from its first convolution on.
      new_classifier: whether a head that cannot be taken is left out; otherwise it is an error.

    Raises:
      UserError: tensors are missing, left over, misshapen or not finite, or the head cannot be taken; the message
        lists them.
    """
    shown = printable(source or "The tensors")
    parts = parts_of(tensors, lineage, layers, aux, new_classifier, shown)
    lineage, given, outputs = parts.lineage, parts.tensors, parts.outputs
    model = _model_of(given, lineage, outputs, parts.aux)
    slots = [
        slot
        for slot in lineage.slots(model)
        if not (is_classifier(slot.path) and slot.path[1] in parts.without_classifier)
    ]
    filled = _scales_to_fill(slots, given, lineage)
    _check(slots, given, filled, lineage, shown)
    flat = {
        slot.path: np.ones(slot.our_shape, np.float32)
        if slot in filled
        else slot.to_ours(given[slot.name].astype(np.float32))
        for slot in slots
    }
    if label_offset is None:
        label_offset = int(lineage.background and outputs == 1001)
    if label_offset:
        flat = {path: leaf[..., label_offset:] if is_classifier(path) else leaf for path, leaf in flat.items()}
    paths = tuple("/".join(path) for path in flat)
    num_classes = max(outputs - label_offset, 0)
    channels = lineage.channels_of(given)
    info = WeightsInfo(
        model=lineage.model,
        num_classes=num_classes,
        aux=bool(model.aux_heads),
        preprocess=(preprocess or lineage.preprocess).with_channels(channels),
        numerics=model.numerics,
        label_offset=label_offset,
        source=source,
        sha256=sha256,
        class_names=imagenet.class_names() if num_classes == IMAGENET_CLASSES and not model.head.rows else (),
        filled=tuple("/".join(slot.path[1:]) for slot in filled),
        head=model.head,
    )
    notes = _notes(info, lineage, outputs, stated=preprocess is not None) + parts.notes
    loaded = tuple(path for path in paths if path.partition("/")[2] not in info.filled)
    return Weights.of(info, flat, Report(loaded, (), parts.dropped, info.filled, notes))


def _notes(info: WeightsInfo, lineage: Lineage, outputs: int, stated: bool) -> tuple[str, ...]:
    """Returns what was assumed and changed, for the report."""
    offset, channels = info.label_offset, info.in_channels
    notes = {
        f"from {lineage.origin}: {info.source}": info.source,
        f"no preprocessing is stated; that of {lineage.origin} is assumed": not stated,
        f"the first {offset} of {outputs} outputs are dropped: no class of ImageNet": offset,
        "the classes are assumed to be those of ImageNet": info.class_names,
        f"its images have {channels} channels: mean and std are fitted to them": channels != 3,
        "the first convolution read BGR; its kernel is flipped to read RGB": lineage.bgr and channels == 3,
    }
    return tuple(note for note, holds in notes.items() if holds)


def export(weights: Weights, origin: str) -> dict[str, np.ndarray]:
    """Returns the weights under the names and in the layout of an origin.

    Raises:
      UserError: the origin does not have the model, or not its head, classifier or auxiliary heads.
    """
    info = weights.info
    lineage = next((x for x in LINEAGES if (x.origin, x.model) == (origin, info.model)), None)
    if lineage is None:
        known = ", ".join(origins(info.model)) or "none"
        raise UserError(f"{origin} has no {info.model}; its weights can be exported to: {known}.")
    if lineage.layout is ONNX:
        raise UserError(
            "ONNX is not written from names: inception-jax export writes it (inference.export_onnx in Python)."
        )
    if not lineage.holds(info.head) and (info.head.rows or info.num_classes):
        way_out = "." if info.head.embedding else ": num_classes=0 (--num-classes 0) drops head and classifier."
        raise UserError(
            f"{origin} has {lineage.head} before the classifier of {info.model}, these weights have "
            f"{info.head}{way_out}"
        )
    flat = traverse_util.flatten_dict(weights.variables)
    slots = [
        slot
        for slot in lineage.slots(weights.create_model())
        if not (lineage.layout.may_lack_scale and _is_filled(slot.path, weights))
    ]
    taken = {slot.path for slot in slots}
    without_name = sorted({path[1] for path in flat if path not in taken and not _is_filled(path, weights)})
    if without_name:
        missing = ", ".join(without_name)
        raise UserError(f"{origin} does not have {missing} of {info.model}; drop it first.")
    tensors = {slot.name: slot.to_theirs(flat[slot.path]) for slot in slots}
    if lineage.layout is TORCH:
        means = [name for name in tensors if name.endswith(".running_mean")]
        tensors |= {name.replace("running_mean", "num_batches_tracked"): np.array(0) for name in means}
    return tensors


def _is_filled(path: tuple[str, ...], weights: Weights) -> bool:
    """Returns whether the variable is a batch-norm scale that the source does not have and that is still one."""
    return "/".join(path[1:]) in weights.info.filled and bool((weights.flat()["/".join(path)] == 1).all())


def _model_of(tensors: Tensors, lineage: Lineage, outputs: int, aux: bool) -> InceptionNet:
    """Returns the model of these tensors, with the heads and the batch-norm scales that they have."""
    head, channels = lineage.head_of(tensors), lineage.channels_of(tensors)
    model = zoo.create_model(lineage.model, outputs, head=head, in_channels=channels)
    named = lineage.naming(model)
    norms = [unit.norm for units in named.values() for unit in units if unit.norm]
    if model.numerics.norm and any(norm + lineage.layout.leaves["bn", "scale"] in tensors for norm in norms):
        norm = model.numerics.norm._replace(scale=True)
        model = model.clone(numerics=model.numerics._replace(norm=norm))
    return model if aux else model.clone(aux_heads={})


def _scales_to_fill(slots: list[Slot], tensors: Tensors, lineage: Lineage) -> set[Slot]:
    """Returns the slots of all batch-norm scales, if files of the lineage may lack them and this one has none."""
    scales = {slot for slot in slots if slot.path[-1] == "scale"} if lineage.layout.may_lack_scale else set()
    return set() if any(slot.name in tensors for slot in scales) else scales


def _check(slots: list[Slot], tensors: Tensors, filled: set[Slot], lineage: Lineage, shown: str) -> None:
    """Raises a `UserError` that names what is missing, left over, misshapen or not a finite number."""
    by_name = {slot.name: slot for slot in slots if slot not in filled}
    misshapen = [
        f"{name}: {tensors[name].shape}, not {slot.their_shape}"
        for name, slot in by_name.items()
        if name in tensors and _core(tensors[name].shape) != _core(slot.their_shape)
    ]
    # Values are checked only where the size fits, which bounds the cost.
    sized = [
        name for name, slot in by_name.items() if name in tensors and tensors[name].size == math.prod(slot.their_shape)
    ]
    faults = {
        "missing": [name for name in by_name if name not in tensors],
        "left over": [name for name in tensors if name not in by_name],
        "misshapen": misshapen,
        "not finite": [name for name in sized if not _finite(tensors[name])],
        "negative": [name for name in sized if by_name[name].path[-1] == "var" and (tensors[name] < 0).any()],
    }
    listed = "; ".join(f"{len(found)} {what} ({some(found)})" for what, found in faults.items() if found)
    if listed:
        what = f"{shown} cannot be {lineage.model} of {lineage.origin}: {listed}."
        raise UserError(what + fitting(tensors, lineage))


def is_classifier(path: tuple[str, ...]) -> bool:
    """Returns whether the variable at `path` belongs to a classifier, the main one or that of an auxiliary head."""
    return path[-3:-1] == ("classifier", "linear")


def _core(shape: Shape) -> Shape:
    """Returns the shape without ones at its ends: old Caffe files have (1, 1, 1, 64), old PyTorch files (64, 32)."""
    others = [i for i, n in enumerate(shape) if n != 1]
    return shape[others[0] : others[-1] + 1] if others else ()


def _finite(tensor: np.ndarray) -> bool:
    return bool(np.issubdtype(tensor.dtype, np.floating) and np.isfinite(tensor).all())
