"""A short network, which compiles in seconds: for tests of what is done with a network, not of networks."""

import dataclasses

from inception_jax.models import spec, zoo

BLOCK = ((spec.Conv(16),), (spec.Pool("max"), spec.Conv(16)))
SHORT = dataclasses.replace(
    zoo.model_card("googlenet_cifar"),
    name="short",
    table={"conv1": spec.Conv(16, (3, 3)), "pool3": spec.Pool("max", 3, 2), "4a": BLOCK, "5b": BLOCK},
    aux_heads={"4a": spec.AuxHead(rows=(spec.Pool("avg", 5, 3, spec.VALID), spec.Conv(16)), hidden=16)},
)
