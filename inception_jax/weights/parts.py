"""The parts of a file: which tensors are the body's, the auxiliary heads', the head's, and which are left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from inception_jax.errors import UserError
from inception_jax.models import sizes, zoo
from inception_jax.weights import heads, keras_head
from inception_jax.weights.head_layers import Untaken
from inception_jax.weights.naming import names
from inception_jax.weights.naming.layouts import TORCH
from inception_jax.weights.naming.lineages import Lineage, Tensors
from inception_jax.weights.naming.names import Names
from inception_jax.weights.readers.statement import Layer
from inception_jax.weights.recognition import modules_of_body, vocabulary

WITHOUT_HEAD = "num_classes=0 (convert --num-classes 0) leaves it out, num_classes=K draws a new classifier."


MOST_MISSING = 0.1  # of the modules of a body; with more, the file is of another network, and the check says so


class Parts(NamedTuple):
    """What a file holds.

    Attributes:
      lineage: with the names of the head that was found.
      tensors: of body, auxiliary heads and head, as the slots of the lineage read them; also what belongs nowhere.
      outputs: of the classifier; 0: there is none, or it is left out.
      aux: whether auxiliary heads are taken.
      without_classifier: the auxiliary heads whose classifier is not taken, "aux_4a".
      dropped: the names of tensors that are left out.
      notes: for the report.
    """

    lineage: Lineage
    tensors: Tensors
    outputs: int
    aux: bool
    without_classifier: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


class _Split(NamedTuple):
    """Tensors by where their names belong: {name: tensor}, and the names of what is no weight."""

    body: dict[str, np.ndarray]
    aux: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    strays: dict[str, np.ndarray]  # inside modules of the body, which do not have them
    no_weights: tuple[str, ...]


def parts_of(
    tensors: Tensors, lineage: Lineage, layers: Sequence[Layer], aux: bool | None, new_classifier: bool, shown: str
) -> Parts:
    """Returns the parts of a file.

    Args:
      tensors, lineage, layers, aux, new_classifier: arguments of `convert`.
      shown: the name of the file, for messages.

    Raises:
      UserError: the head cannot be taken and is wanted, or the body has layers that ours lacks.
    """
    model = zoo.create_model(lineage.model)
    named, paths = lineage.naming(model), names.units(model)
    of_body, behind = keras_head.split(layers, sum(len(paths[row]) for row in model.table))
    keras_head.check_body(of_body, shown)
    split = _split(tensors, lineage, {layer.name for layer in behind})
    aux_units = {row: units for row, units in named.items() if row.startswith("aux_")}
    modules = modules_of_body(lineage)
    if len(modules - {vocabulary(lineage).body[name] for name in split.body}) > len(modules) * MOST_MISSING:
        whole = split.body | split.aux | split.strays | split.head
        return Parts(lineage, whole, 0, bool(split.aux), (), split.no_weights, ())
    own = lineage.head_of(split.body)
    features = own.rows[-1].features if own.rows else sizes.chain_channels(tuple(model.table.values()), 3)
    found, reason = None, ""
    try:
        found = heads.find(split.head, lineage, features, named["head"] if own.rows else (), behind, of_body)
    except Untaken as error:
        reason = f"its head, {heads.described(split.head, lineage.layout)}, cannot be taken: {error}"
    if found is None and not reason and split.aux:
        reason = f"its classifier, {named['classifier'][0].layer}, is missing beside its auxiliary heads"
    if reason and not new_classifier:
        raise UserError(f"{shown} is {lineage.model} of {lineage.origin}, but {reason}. {WITHOUT_HEAD}")
    outputs = found.outputs if found else 0
    taps, replaced = _other_classifiers(aux_units, split.aux, outputs, lineage)
    if aux is False or not outputs:
        taps, replaced = (), tuple(split.aux)
    kept = {name: tensor for name, tensor in split.aux.items() if name not in replaced}
    of_head = found.tensors | {name: split.head[name] for name in found.strays} if found else {}
    notes = (*(found.notes if found else ()), *([f"{reason}; it is left out"] if reason else []))
    if taps:
        notes += (f"the classifiers of {' and '.join(taps)} have other outputs than the {outputs} here: not taken",)
    dropped = (*([] if found else split.head), *replaced, *split.no_weights)
    its = found.lineage if found else lineage
    return Parts(its, split.body | split.strays | kept | of_head, outputs, bool(kept), taps, dropped, notes)


def _split(tensors: Tensors, lineage: Lineage, of_head: Collection[str]) -> _Split:
    """Returns the tensors by where their names belong; `of_head` are the names of layers behind the body, if known."""
    head = {name: tensor for name, tensor in tensors.items() if name.rpartition("/")[0] in of_head}
    rest = {name: tensor for name, tensor in tensors.items() if name not in head}
    given, foreign = lineage.without_foreign(rest)
    known = vocabulary(lineage)
    separator = "." if lineage.layout is TORCH else "/"
    first = {name.partition(separator)[0] for name in known.body.values()}
    depth = 1 if len(first) > 1 else 2  # components of a name that tell modules apart

    def top(name: str) -> str:
        return separator.join(name.split(separator)[:depth])

    tops_of_body, tops_of_aux = {top(name) for name in known.body.values()}, {top(name) for name in known.aux}
    split = _Split({}, {}, head, {}, foreign)
    no_weights = list(foreign)
    for name, tensor in given.items():
        if name in known.body:
            split.body[name] = tensor
        elif top(name) in tops_of_aux:
            split.aux[name] = tensor
        elif top(name) in tops_of_body:
            split.strays[name] = tensor
        elif heads.NO_WEIGHTS.search(name):
            no_weights.append(name)
        else:
            head[name] = tensor
    return split._replace(no_weights=tuple(no_weights))


def _other_classifiers(
    aux_units: dict[str, list[Names]], tensors: Tensors, outputs: int, lineage: Lineage
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the auxiliary heads whose classifier has other outputs or other layers, and the names of its tensors."""
    separator = "." if lineage.layout is TORCH else "/"
    taps, replaced = [], []
    for tap, units in aux_units.items() if tensors else ():
        layer = units[-1].layer
        usual = {layer + lineage.layout.leaves["linear", leaf] for leaf in ("kernel", "bias")}
        found = [name for name in tensors if name.startswith(layer + separator)]
        counts = {tensors[name].size for name in found if name.endswith(lineage.layout.leaves["linear", "bias"])}
        if set(found) - usual or counts - {outputs}:
            taps.append(tap)
            replaced += found
    return tuple(taps), tuple(replaced)
