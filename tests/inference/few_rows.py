"""Networks of a few rows of googlenet_cifar, which compile and train fast, as weights that a `Predictor` takes."""

import dataclasses

from inception_jax.models import inputs, zoo
from inception_jax.weights.files import Weights, WeightsInfo


@dataclasses.dataclass(frozen=True)
class FewRows(Weights):
    """Weights of some rows of a model."""

    rows: tuple[str, ...] = ()

    def create_model(self, *args, **overrides):
        model = super().create_model(*args, **overrides)
        return model.clone(table={row: model.table[row] for row in self.rows})


def info(size, class_names, crop_fraction=1.0):
    """Returns what the weights are of: 16 features a branch, no heads."""
    card = zoo.model_card("googlenet_cifar")
    preprocess = dataclasses.replace(inputs.CIFAR, size=size, crop_fraction=crop_fraction)
    names = tuple(class_names)
    return WeightsInfo(
        card.name, len(names), False, preprocess, card.numerics, 0.05, source="a test", class_names=names
    )


def fresh(*_, **__):
    """Returns a predictor of ten classes with the values that `init` draws, which reads 16 pixels."""
    import jax
    import jax.numpy as jnp

    from inception_jax.inference.predictor import Predictor

    source = FewRows(info(16, [f"class {i}" for i in range(10)]), {}, rows=("conv1", "3a", "pool3", "4e", "5b"))
    variables = source.create_model(aux=False).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return Predictor(dataclasses.replace(source, variables=jax.device_get(variables)))
