"""Trees of arrays: their names, their bits, and numbers that no initialiser draws."""

import jax
import numpy as np
from flax import traverse_util


def flat(tree) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(dict(tree), sep="/").items()}


def bits(tree) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in flat(tree).items()}


def random_like(shapes, seed: int):
    """Returns arrays that no initialiser draws, a zero with a sign among them."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        array = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        array.flat[0] = -0.0
        return array

    return jax.tree_util.tree_map_with_path(draw, shapes)
