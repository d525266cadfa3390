"""Tensors of the exact names and shapes that an original publishes, with random numbers in them."""

import numpy as np

from inception_jax.models import zoo
from inception_jax.weights.naming.lineages import LINEAGES


def lineage(origin, model):
    """Returns the lineage of an origin's files of a model."""
    return next(x for x in LINEAGES if (x.origin, x.model) == (origin, model))


def model_of(its, outputs, aux=True):
    """Returns the zoo's model with these outputs, and the heads that the lineage has names for."""
    model = zoo.create_model(its.model, outputs, aux=aux, head=its.head)
    named = its.naming(model)
    return model.clone(aux_heads={tap: head for tap, head in model.aux_heads.items() if f"aux_{tap}" in named})


def tensors(its, outputs=1000, aux=True, seed=0):
    """Returns {their name: float32 in their layout} for every parameter."""
    rng = np.random.default_rng(seed)
    slots = its.slots(model_of(its, outputs, aux))
    found = {slot.name: rng.standard_normal(slot.their_shape, dtype=np.float32) for slot in slots}
    return found | {slot.name: np.abs(found[slot.name]) for slot in slots if slot.path[-1] == "var"}


GOOGLENET = lineage("torchvision", "googlenet_torchvision")
