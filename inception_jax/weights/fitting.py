"""Adapts weights to another number of classes, another image size or other heads; starts a model from another's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.models import spec, zoo
from inception_jax.models.network import InceptionNet
from inception_jax.weights.channels import with_channels
from inception_jax.weights.convert import is_classifier
from inception_jax.weights.files import Weights, WeightsInfo
from inception_jax.weights.naming.lineages import init_size, variable_shapes


def adapt(
    weights: Weights,
    num_classes: int | None = None,
    aux: bool | None = None,
    *,
    in_channels: int | None = None,
    image_size: int | None = None,
    reset_head: bool = False,
    seed: int = 0,
) -> Weights:
    """Returns the weights for another number of classes or of channels, another image size, or other auxiliary heads.

    If the number of classes changes, the classifiers are re-initialised as `model.init` does it, and layers between
    pooling and classifier are dropped, but for an embedding. An auxiliary head that is missing, or whose hidden layer
    does not fit the new image size, is re-initialised, too.

    Args:
      weights: of any source.
      num_classes: 0: features, without classifiers; None: unchanged.
      aux: True adds missing heads, False drops all; None: unchanged.
      in_channels: of the images; the first kernel, mean and std are adapted as `channels.with_channels` says; None:
        unchanged.
      image_size: in pixels; None: unchanged.
      reset_head: re-initialise the classifiers, and drop layers before them, also if their classes stay as many.
      seed: of the initial values.

    Raises:
      UserError: a number is out of range, or arrays of the table's rows are missing or misshapen.
    """
    if num_classes is not None and num_classes < 0:
        raise UserError(f"num_classes is {num_classes}; it must be at least 0.")
    weights = with_channels(weights, in_channels)
    old = weights.info
    classes = old.num_classes if num_classes is None else num_classes
    preprocess = dataclasses.replace(old.preprocess, size=image_size or old.preprocess.size)
    info = dataclasses.replace(
        old,
        num_classes=classes,
        aux=old.aux if aux is None else aux,
        preprocess=preprocess,
        head=kept_head(old, classes, reset_head),
    )
    model = info.create_model()
    shapes = variable_shapes(model, preprocess.size)
    flat = traverse_util.flatten_dict(weights.variables)
    new_classifiers = reset_head or classes != old.num_classes
    unfit = _check_rows(flat, shapes, old)
    kept = {
        path: leaf
        for path, leaf in flat.items()
        if path in shapes and path[1] not in unfit and not (new_classifiers and is_classifier(path))
    }
    fresh = initial_values(model, shapes.keys() - kept.keys(), seed, preprocess.size)
    names, drawn = ({"/".join(path) for path in paths} for paths in (kept, fresh))
    dropped = ["/".join(path) for path in flat if path not in shapes]
    notes: tuple[str, ...] = (f"{old.model} has no auxiliary heads",) if aux and not model.aux_heads else ()
    notes += (f"the classifier is dropped with {old.head} before it",) if info.head != old.head else ()
    report = dataclasses.replace(
        weights.report,
        notes=weights.report.notes + notes,
        loaded=tuple(name for name in weights.report.loaded if name in names),
        reinitialised=tuple(sorted(drawn | names.intersection(weights.report.reinitialised))),
        dropped=(*weights.report.dropped, *dropped),
    )
    info = dataclasses.replace(
        info,
        aux=bool(model.aux_heads),
        label_offset=0 if new_classifiers else old.label_offset,
        class_names=() if new_classifiers else old.class_names,
        filled=tuple(name for name in old.filled if f"params/{name}" in names),
    )
    return Weights.of(info, {path: {**kept, **fresh}[path] for path in shapes}, report)


def reset_classifier(
    model: InceptionNet, variables: Mapping[str, Any], num_classes: int, *, seed: int = 0
) -> tuple[InceptionNet, dict[str, Any]]:
    """Returns `model.reset_classifier(num_classes)` and variables for it: the classifiers are drawn, all others kept.

    Args:
      model, variables: a network and its variables; arrays are not copied.
      num_classes: 0: no classifiers.
      seed: of the initial values.

    Raises:
      ValueError: `num_classes` is no whole number of at least 0.
    """
    new = model.reset_classifier(num_classes)
    flat = traverse_util.flatten_dict(dict(variables))
    shapes = variable_shapes(new)
    fresh = initial_values(new, filter(is_classifier, shapes), seed)
    kept = {path: leaf for path, leaf in flat.items() if path in shapes and path not in fresh}
    return new, traverse_util.unflatten_dict({path: {**kept, **fresh}[path] for path in shapes})


def kept_head(info: WeightsInfo, num_classes: int, reset_head: bool = False) -> spec.Head:
    """Returns the head that is kept with so many classes: an embedding always, other rows with their classifier."""
    same_classifier = num_classes == info.num_classes and not reset_head
    return info.head if info.head.embedding or same_classifier else spec.NO_HEAD


def transfer(weights: Weights, name: str, *, seed: int = 0) -> Weights:
    """Returns weights of one model as the initial weights of another whose table begins with the same rows.

    Rows and auxiliary heads that are equal and have the same name in both tables keep their variables. The others, and
    the classifier, are initialised as `model.init` does it; layers before the classifier are dropped.

    Args:
      weights: of the model that `ModelCard.begins_as` of `name` names.
      name: the model of the zoo to start.
      seed: of the initial values.

    Raises:
      UserError: `ModelCard.begins_as` names another model, or none.
    """
    old, card = weights.info, zoo.model_card(name)
    if card.begins_as != old.model:
        says = f"begins as {card.begins_as}" if card.begins_as else "begins as no other model"
        raise UserError(f"Weights of {old.model} cannot start {name}, which {says}.")
    theirs = zoo.model_card(old.model)
    alike = {spec.module_name(row, card.table[row]) for row in card.table if theirs.table.get(row) == card.table[row]}
    alike |= {f"aux_{tap}" for tap in card.aux_heads if theirs.aux_heads.get(tap) == card.aux_heads[tap]}
    flat = traverse_util.flatten_dict(weights.variables)
    filled = tuple(each for each in old.filled if each.split("/")[0] in alike)
    info = dataclasses.replace(old, model=name, filled=filled, head=spec.NO_HEAD)
    model = info.create_model()
    shapes = variable_shapes(model, info.preprocess.size)
    kept = {path: leaf for path, leaf in flat.items() if path in shapes and path[1] in alike}
    drawn = initial_values(model, shapes.keys() - kept.keys(), seed, info.preprocess.size)
    report = dataclasses.replace(
        weights.report,
        notes=(*weights.report.notes, f"weights of {old.model} start {name}"),
        loaded=tuple("/".join(path) for path in kept),
        reinitialised=tuple(sorted("/".join(path) for path in drawn)),
        dropped=(*weights.report.dropped, *("/".join(path) for path in flat if path not in kept)),
    )
    return Weights.of(info, {path: {**kept, **drawn}[path] for path in shapes}, report)


def _check_rows(
    flat: Mapping[tuple[str, ...], Any], shapes: Mapping[tuple[str, ...], tuple[int, ...]], info: WeightsInfo
) -> set[str]:
    """Returns the auxiliary heads with a missing or misshapen variable; their classifiers do not count.

    Raises:
      UserError: a row of the table has such a variable.
    """
    found_shapes = {path: np.shape(leaf) for path, leaf in flat.items()}
    unfit = [path for path in shapes if not is_classifier(path) and found_shapes.get(path) != shapes[path]]
    rows = sorted(path for path in unfit if not path[1].startswith("aux_"))
    if rows:
        found = found_shapes.get(rows[0], "nothing")
        raise UserError(
            f"{len(rows)} arrays of {info.source or 'the weights'} do not fit {info.model}, the first is "
            f"{'/'.join(rows[0])}: {found}, not {shapes[rows[0]]}."
        )
    return {path[1] for path in unfit}


def initial_values(
    model: InceptionNet, paths: Iterable[tuple[str, ...]], seed: int, image_size: int | None = None
) -> dict[tuple[str, ...], np.ndarray]:
    """Returns the initial values of the variables at `paths`, as `model.init` draws them."""
    wanted = sorted(paths)
    if not wanted:
        return {}
    size = init_size(model, image_size)

    @jax.jit  # removes all computation that the wanted variables do not need, the network's included
    def draw(key: jax.Array) -> dict[str, Any]:
        flat = traverse_util.flatten_dict(dict(model.init(key, jnp.zeros((1, size, size, model.channels)))))
        return {"/".join(path): flat[path] for path in wanted}

    drawn = jax.device_get(draw(jax.random.key(seed)))
    return {tuple(name.split("/")): np.asarray(leaf) for name, leaf in drawn.items()}
