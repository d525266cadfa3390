"""Weights from elsewhere: arrays as a model of the zoo takes them, what they need around them, and a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.models import spec, zoo
from inception_jax.models.network import InceptionNet

Variables = Mapping[str, Any]
Path = tuple[str, ...]  # of an array among the variables: ("params", "inception_3a", ...)


@dataclasses.dataclass(frozen=True)
class Info:
    """What the weights are of, and what a model needs to compute with them what their source does.

    Attributes:
      model: its name in the zoo.
      num_classes: outputs of the classifier.
      width: multiplier of the features.
      aux: whether the auxiliary heads are there.
      numerics: how their source reads the table.
      preprocess: how their source makes its input.
      filled: "/"-joined paths of parameters that the source does not have, filled with what it computes without them.
    """

    model: str
    num_classes: int
    width: float
    aux: bool
    numerics: spec.Numerics
    preprocess: zoo.Preprocess
    filled: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the arrays of a source: `str` gives a line for each; names are those of modules."""

    source: str
    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(
            [
                f"loaded from {self.source}: {len(self.loaded)} modules, {self.loaded[0]} to {self.loaded[-1]}",
                f"re-initialised: {', '.join(self.reinitialised) or 'none'}",
                f"dropped: {', '.join(self.dropped) or 'none'}",
            ]
        )


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights in host memory: `variables` is {"params", "batch_stats"}, nested dicts of NumPy float32."""

    variables: Variables
    info: Info
    report: Report


def load(
    source: str,
    name: str,
    *,
    num_classes: int | None = None,
    aux: bool | None = None,
    reset_head: bool = False,
    unverified: bool = False,
    seed: int = 0,
) -> Weights:
    """Returns the weights in a file as the model `name` takes them.

    Raises:
      UserError: always, until readers of files are there.
    """
    raise UserError(
        f"weights {source!r} are no workdir of a run with checkpoints, and no reader of files is there yet."
    )


def adapt(
    weights: Weights, model: InceptionNet, image_size: int, *, reset_head: bool = False, seed: int = 0
) -> Weights:
    """Returns the weights as `model` takes them on images of `image_size` pixels.

    Every row of the table is taken as it is. A head (the classifier, an auxiliary head) is taken whole where all its
    arrays have the shapes that the model asks for, and drawn whole, as `model.init` draws it, where not: for another
    number of classes, or, if it flattens its map, another image size. Heads that the model lacks are dropped.

    Args:
      weights: with the arrays of their source, whatever its heads.
      model: of the same table, with the classes and the auxiliary heads that are wanted.
      image_size: in pixels.
      reset_head: draw every head.
      seed: of what is drawn.

    Returns:
      Weights whose variables have exactly the paths and shapes of `model.init`. `info` is that of the result, and
      `filled` keeps only paths that are still there and were not drawn; `report` compares it with `weights`.

    Raises:
      UserError: a row of the table is missing, has another shape, or is none of the model's.
    """
    given = traverse_util.flatten_dict(weights.variables)
    asked = traverse_util.flatten_dict(jax.eval_shape(lambda: _init(model, image_size, seed)))
    unlike = {path for path in {**asked, **given} if _shape(given, path) != _shape(asked, path)}
    wrong = sorted(path for path in unlike if not _is_head(path[1]))
    if wrong:
        raise UserError(
            f"{len(wrong)} arrays of {weights.report.source} do not fit {model.name_in_zoo}; {'/'.join(wrong[0])}: "
            f"{_shape(given, wrong[0])} there, {_shape(asked, wrong[0])} in the model."
        )
    heads = sorted({path[1] for path in asked if _is_head(path[1])})
    drawn = tuple(head for head in heads if reset_head or any(path[1] == head for path in unlike))
    kept = {path: given[path] for path in asked if path[1] not in drawn}
    variables = {"batch_stats": {}, **traverse_util.unflatten_dict(kept | _draw(model, image_size, seed, drawn))}
    paths = {"/".join(path[1:]) for path in kept}
    info = dataclasses.replace(
        weights.info,
        num_classes=model.num_classes,
        aux=bool(model.aux_heads),
        filled=tuple(path for path in weights.info.filled if path in paths),
    )
    modules = tuple(dict.fromkeys(path[1] for path in asked))
    drawn_before = tuple(head for head in weights.report.reinitialised if head in modules)
    reinitialised = tuple(sorted({*drawn, *drawn_before}))
    report = Report(
        source=weights.report.source,
        loaded=tuple(name for name in modules if name not in reinitialised),
        reinitialised=reinitialised,
        dropped=tuple(sorted({path[1] for path in given} - {*modules})),
    )
    return Weights(variables, info, report)


def _is_head(module: str) -> bool:
    return module == "classifier" or module.startswith("aux_")


def _shape(arrays: Mapping[Path, Any], path: Path) -> str:
    return str(list(arrays[path].shape)) if path in arrays else "nothing"


def _init(model: InceptionNet, image_size: int, seed: int) -> Variables:
    return model.init(jax.random.key(seed), jnp.zeros((1, image_size, image_size, 3)), train=False)


def _draw(model: InceptionNet, image_size: int, seed: int, heads: tuple[str, ...]) -> dict[Path, np.ndarray]:
    """Returns the arrays of these heads; of the rest of the network nothing is computed."""

    def draw() -> dict[Path, jax.Array]:
        flat = traverse_util.flatten_dict(_init(model, image_size, seed))
        return {path: array for path, array in flat.items() if path[1] in heads}

    return jax.device_get(jax.jit(draw)()) if heads else {}
