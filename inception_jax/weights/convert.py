"""Converts tensors of an original to ours and back. It is strict: every tensor is used, every parameter is set."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from flax import traverse_util

from inception_jax import imagenet
from inception_jax.errors import UserError, printable
from inception_jax.models import zoo
from inception_jax.models.network import InceptionNet
from inception_jax.weights.files import Report, Weights, WeightsInfo
from inception_jax.weights.naming.layouts import ONNX, TORCH, Shape, Slot
from inception_jax.weights.naming.lineages import LINEAGES, Lineage, Tensors

IMAGENET_CLASSES = 1000  # originals with 1000 classes have the order of ILSVRC; the network of the FID has 1008


def origins(model: str | None = None) -> list[str]:
    """Returns the origins whose files can be converted to `model`; None: to any model."""
    return list(dict.fromkeys(lineage.origin for lineage in LINEAGES if model in (None, lineage.model)))


def find_lineage(tensors: Tensors, model: str | None, origin: str | None) -> Lineage:
    """Returns the lineage whose naming these tensors follow, among those of a model and an origin, if given.

    Raises:
      UserError: no lineage fits, or several models do and none is given.
    """
    candidates = [x for x in LINEAGES if model in (None, x.model) and origin in (None, x.origin)]
    if not candidates:
        known = ", ".join(origins(model)) or "none"
        raise UserError(f"No files of {origin or 'any origin'} are known for {model or 'any model'}; known: {known}.")
    shares = {lineage: _share(lineage, tensors) for lineage in candidates}
    best = max(shares.values())
    if best == 0:
        raise UserError(
            f"These tensors ({_some(tensors)}) carry none of the names of {model or 'any model'} "
            f"in {origin or ', '.join(origins(model))}.{_fitting(tensors)}"
        )
    fitting = [lineage for lineage, share in shares.items() if share == best]
    models = sorted({lineage.model for lineage in fitting})
    if len(models) > 1:
        raise UserError(f"These tensors fit {' and '.join(models)}: name the model.")
    return fitting[0]


def convert(
    tensors: Tensors,
    lineage: Lineage,
    *,
    source: str = "",
    sha256: str = "",
    preprocess: zoo.Preprocess | None = None,
    label_offset: int | None = None,
) -> Weights:
    """Returns the tensors of an original as weights of ours.

    Args:
      tensors: all tensors of the file, by name.
      lineage: how they are named and laid out.
      source, sha256: the origin that the report states.
      preprocess: the preprocessing of their input, in RGB; None: that of the lineage, which the report notes.
      label_offset: how many outputs before class 0 to drop; None: 1 of 1001 if the origin has a background class.

    Raises:
      UserError: tensors are missing, left over, misshapen or not finite; the message lists them.
    """
    given, foreign = lineage.without_foreign(tensors)
    outputs = lineage.outputs(given)
    model = _model_of(given, lineage, outputs)
    slots = lineage.slots(model)
    filled = _scales_to_fill(slots, given, lineage)
    _check(slots, given, filled, lineage, source)
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
    names = tuple("/".join(path) for path in flat)
    num_classes = max(outputs - label_offset, 0)
    of_imagenet = num_classes == IMAGENET_CLASSES and not model.head.embedding
    class_names = imagenet.class_names() if of_imagenet else ()
    filled_names = tuple("/".join(slot.path[1:]) for slot in filled)
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
        class_names=class_names,
        filled=filled_names,
        head=model.head,
    )
    notes: tuple[str, ...] = (f"from {lineage.origin}: {source}",) if source else ()
    notes += () if preprocess else (f"no preprocessing is stated; that of {lineage.origin} is assumed",)
    notes += (
        (f"the first {label_offset} of {outputs} outputs are dropped: no class of ImageNet",) if label_offset else ()
    )
    notes += ("the classes are assumed to be those of ImageNet",) if class_names else ()
    notes += (f"its images have {channels} channels: mean and std are fitted to them",) if channels != 3 else ()
    flipped = lineage.bgr and channels == 3
    notes += ("the first convolution read BGR; its kernel is flipped to read RGB",) if flipped else ()
    loaded = tuple(name for name in names if name.partition("/")[2] not in filled_names)
    return Weights.of(info, flat, Report(loaded, (), foreign, filled_names, notes))


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
            f"{origin} has {lineage.head} before the classifier of {info.model}, these weights have {info.head}{way_out}"
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


def _model_of(tensors: Tensors, lineage: Lineage, outputs: int) -> InceptionNet:
    """Returns the model of these tensors, with the heads and the batch-norm scales that they have."""
    settings = {"head": lineage.head_of(tensors), "in_channels": lineage.channels_of(tensors)}
    model = zoo.create_model(lineage.model, outputs, **settings)
    named = lineage.naming(model)
    norms = [unit.norm for units in named.values() for unit in units if unit.norm]
    if model.numerics.norm and any(norm + lineage.layout.leaves["bn", "scale"] in tensors for norm in norms):
        norm = model.numerics.norm._replace(scale=True)
        model = model.clone(numerics=model.numerics._replace(norm=norm))
    heads = [names for tap in model.aux_heads for names in named.get(f"aux_{tap}", ())]
    present = any(name.startswith(names.layer) for names in heads for name in tensors)
    return model if present else model.clone(aux_heads={})


def _scales_to_fill(slots: list[Slot], tensors: Tensors, lineage: Lineage) -> set[Slot]:
    """Returns the slots of all batch-norm scales, if files of the lineage may lack them and this one has none."""
    scales = {slot for slot in slots if slot.path[-1] == "scale"} if lineage.layout.may_lack_scale else set()
    return set() if any(slot.name in tensors for slot in scales) else scales


def _check(slots: list[Slot], tensors: Tensors, filled: set[Slot], lineage: Lineage, source: str) -> None:
    """Raises a `UserError` that names what is missing, left over, misshapen or not a finite number."""
    by_name = {slot.name: slot for slot in slots if slot not in filled}
    misshapen = [
        f"{name}: {tensors[name].shape}, not {slot.their_shape}"
        for name, slot in by_name.items()
        if name in tensors and _core(tensors[name].shape) != _core(slot.their_shape)
    ]
    # Values are checked only where the size fits, which bounds the cost.
    fitting = [
        name for name, slot in by_name.items() if name in tensors and tensors[name].size == math.prod(slot.their_shape)
    ]
    faults = {
        "missing": [name for name in by_name if name not in tensors],
        "left over": [name for name in tensors if name not in by_name],
        "misshapen": misshapen,
        "not finite": [name for name in fitting if not _finite(tensors[name])],
        "negative": [name for name in fitting if by_name[name].path[-1] == "var" and (tensors[name] < 0).any()],
    }
    listed = "; ".join(f"{len(found)} {what} ({_some(found)})" for what, found in faults.items() if found)
    if listed:
        raise UserError(
            f"{printable(source or 'The tensors')} cannot be {lineage.model} of {lineage.origin}: {listed}."
            f"{_fitting(tensors, lineage)}"
        )


def _fitting(tensors: Tensors, but: Lineage | None = None) -> str:
    """Returns a sentence that names the models which these tensors fit, or ""."""
    fitting = [x for x in LINEAGES if x != but and _share(x, tensors) > 0.9 and _fits(x, tensors)]
    models = dict.fromkeys(f"{x.model} (from {x.origin})" for x in fitting)
    return f" They fit {' and '.join(models)}." if models else ""


def _fits(lineage: Lineage, tensors: Tensors) -> bool:
    given, _ = lineage.without_foreign(tensors)
    slots = lineage.slots(_model_of(given, lineage, lineage.outputs(given)))
    filled = _scales_to_fill(slots, given, lineage)
    wanted = {slot.name: _core(slot.their_shape) for slot in slots if slot not in filled}
    return wanted == {name: _core(tensor.shape) for name, tensor in given.items()}


def _share(lineage: Lineage, tensors: Tensors) -> float:
    """Returns the share of the tensors, 0 ... 1, whose names are names of modules in this lineage."""
    given, _ = lineage.without_foreign(tensors)
    named = lineage.naming(zoo.create_model(lineage.model))
    modules = {name for units in named.values() for unit in units for name in unit if name}
    suffixes = sorted(set(lineage.layout.leaves.values()), key=len, reverse=True)
    known = [any(name.endswith(x) and name[: -len(x)] in modules for x in suffixes) for name in given]
    return sum(known) / max(len(known), 1)


def is_classifier(path: tuple[str, ...]) -> bool:
    """Returns whether the variable at `path` belongs to a classifier, the main one or that of an auxiliary head."""
    return path[-3:-1] == ("classifier", "linear")


def _core(shape: Shape) -> Shape:
    """Returns the shape without its leading ones; old Caffe files have shapes such as (1, 1, 1, 64)."""
    return shape[next((i for i, n in enumerate(shape) if n != 1), len(shape)) :]


def _finite(tensor: np.ndarray) -> bool:
    return bool(np.issubdtype(tensor.dtype, np.floating) and np.isfinite(tensor).all())


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(printable, names[:4])) + (", ..." if len(names) > 4 else "")
