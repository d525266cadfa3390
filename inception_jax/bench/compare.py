"""Compares the outputs of engines; nothing is timed unless they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from inception_jax.bench import case as cases
from inception_jax.bench.case import Case
from inception_jax.bench.engines import framework
from inception_jax.bench.originals import origin_of
from inception_jax.bench.records import Check
from inception_jax.errors import UserError
from inception_jax.weights import Weights
from inception_jax.weights.convert import convert
from inception_jax.weights.recognition import find_lineage

Flat = Mapping[tuple[str, ...], np.ndarray]

# The differences that rounding explains. For logits and losses relative to the largest value; for gradients and for
# changes of running statistics, each taken as one vector, relative to its norm. Batch norms amplify the rounding of
# gradients by orders of magnitude: for googlenet_torchvision on 32 images of 224 pixels, float32 gradients of PyTorch
# differ from its float64 ones by 0.7 %, in channels_last by 2.1 %. In tf32 and bfloat16 only their norms agree.
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"value": 1e-4, "norm": 5e-3, "statistics": 1e-3, "gradients": 0.1},
    "tf32": {"value": 1e-2, "norm": 0.1, "statistics": 0.02},
    "bfloat16": {"value": 0.05, "norm": 0.2, "statistics": 0.1},
}


def compare(case: Case, start: Weights, outputs: Mapping[str, dict[str, Any]]) -> list[Check]:
    """Compares the outputs of all engines with those of the first.

    Args:
      case: the case that they ran.
      start: the weights that they started from.
      outputs: `Engine.outputs` by engine.

    Returns:
      One `Check` for each engine but the first, and each compared quantity.

    Raises:
      UserError: the outputs of two engines differ by more than rounding explains.
    """
    (reference, expected), *others = ((name, _values(case, start, name, each)) for name, each in outputs.items())
    tolerances = TOLERANCES[case.dtype]
    return [
        check(name, reference, what, found[what][1], theirs, tolerances[kind])
        for name, found in others
        for what, (kind, theirs) in expected.items()
        if kind in tolerances
    ]


def _values(case: Case, start: Weights, name: str, outputs: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Returns the compared quantities of an engine by name, each with its key in `TOLERANCES`."""
    if case.mode == "inference":
        return {"logits": ("value", outputs["logits"])}
    before = traverse_util.flatten_dict(start.variables)
    after = _ours(start, name, outputs["variables"])
    steps = {path: after[path].astype(np.float64) - leaf for path, leaf in before.items()}
    gradients = {path: step / -cases.LEARNING_RATE for path, step in steps.items() if path[0] == "params"}
    statistics = {path: step for path, step in steps.items() if path[0] == "batch_stats"}
    values = {
        "loss": ("value", outputs["loss"]),
        "gradient norm": ("norm", _norm(gradients)),
        "gradients": ("gradients", gradients),
        "steps of running statistics": ("statistics", statistics),
    }
    return {what: found for what, found in values.items() if found[0] != "statistics" or statistics}


def _ours(start: Weights, name: str, variables: Mapping[Any, np.ndarray]) -> Flat:
    """Returns the variables of an engine under the names of this package."""
    kind = framework(name)
    if kind == "jax":
        return variables
    origin, model = origin_of(kind, start.info.model), start.info.model
    converted = convert(variables, find_lineage(variables, model, origin), preprocess=start.info.preprocess)
    return traverse_util.flatten_dict(converted.variables)


def _norm(tree: Flat) -> float:
    return float(np.linalg.norm([np.linalg.norm(np.asarray(array, np.float64)) for array in tree.values()]))


def check(engine: str, reference: str, what: str, ours: Any, theirs: Any, tolerance: float) -> Check:
    """Compares one output: an array by its largest difference, a dict of arrays by the norm of the difference.

    Raises:
      UserError: the difference is above `tolerance` times the largest value (the norm) of `theirs`.
    """
    if isinstance(theirs, Mapping):
        what += " (norm of the difference)"
        difference, largest = _norm({path: ours[path] - array for path, array in theirs.items()}), _norm(theirs)
    else:
        difference = float(np.abs(np.asarray(ours, np.float64) - theirs).max())
        largest = float(np.abs(theirs).max())
    if not difference <= tolerance * largest:
        raise UserError(
            f"{engine} and {reference} do not compute the same: their {what} differ by {difference:.3g} of "
            f"{largest:.3g}, and {tolerance * largest:.3g} is allowed. Nothing was timed."
        )
    return Check(
        engine=engine,
        reference=reference,
        what=what,
        max_abs_difference=difference,
        tolerance=tolerance * largest,
        largest_value=largest,
    )
