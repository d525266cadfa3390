"""Synthetic weights and images that every framework can rebuild: a counter-based generator and a filling rule.

Each tensor is filled by itself, in C order of its PyTorch layout (conv O,I,H,W; linear O,I with inputs C,H,W), so the
reference values in the tests come from other implementations that followed the same rule.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


def uniform(n: int, stream: int) -> np.ndarray:
    """Returns n float64 in [0, 1): a splitmix64 finaliser of (index, stream)."""
    with np.errstate(over="ignore"):
        z = np.arange(n, dtype=np.uint64) + np.uint64(stream << 32)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)) * 2.0**-53


def image(size: int, dtype) -> np.ndarray:
    """Returns the input image [1, size, size, 3] in -1 ... 1."""
    return (2 * uniform(3 * size * size, 7) - 1).reshape(1, 3, size, size).transpose(0, 2, 3, 1).astype(dtype)


def fill(variables, dtype, hidden_map=(4, 4)):
    """Returns `variables` (shapes suffice) with every leaf filled by the rule; `hidden_map` feeds the hidden layers."""
    flat = traverse_util.flatten_dict(dict(variables))
    return traverse_util.unflatten_dict(
        {path: _leaf(path, leaf.shape, hidden_map).astype(dtype) for path, leaf in flat.items()}
    )


def _leaf(path, shape, hidden_map):
    n = int(np.prod(shape))
    match path[-1], path[-2]:
        case ["kernel", "hidden"]:
            return _linear_after_flatten(shape, hidden_map)
        case ["kernel", "depthwise"]:
            return weight((shape[-1], 1, *shape[:2]), gain=3).transpose(2, 3, 1, 0)
        case ["kernel", "linear"]:
            return weight(shape[::-1]).T
        case ["kernel", _]:
            height, width, inputs, outputs = shape
            return weight((outputs, inputs, height, width)).transpose(2, 3, 1, 0)
        case ["bias", "bn"]:
            return 0.2 * (uniform(n, 4) - 0.5)
        case ["bias", _]:
            return 0.2 * (uniform(n, 2) - 0.5)
        case ["scale", _]:
            return 0.8 + 0.4 * uniform(n, 3)
        case ["mean", _]:
            return 0.2 * (uniform(n, 5) - 0.5)
        case ["var", _]:
            return 0.8 + 0.4 * uniform(n, 6)
    raise AssertionError(f"no filling rule for {path}")


def weight(shape, gain=6):
    """Returns a weight in its PyTorch layout, uniform with the variance gain / (3 fan-in)."""
    fan_in = int(np.prod(shape[1:]))
    return ((2 * uniform(int(np.prod(shape)), 1) - 1) * np.sqrt(gain / fan_in)).reshape(shape)


def _linear_after_flatten(shape, hidden_map):
    inputs, outputs = shape
    channels = inputs // int(np.prod(hidden_map))
    kernel = weight((outputs, inputs)).reshape(outputs, channels, *hidden_map)
    return kernel.transpose(2, 3, 1, 0).reshape(inputs, outputs)


def shapes(model, size: int):
    """Returns the shapes of the model's variables at `size` pixels, heads included."""
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, size, size, 3))), jax.random.key(0))
