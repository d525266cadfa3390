"""How a state shows itself."""

import jax
import jax.numpy as jnp
import optax

from inception_jax.training import state


def _state(ema=False):
    variables = {"params": {"kernel": jnp.zeros((1000, 50)), "bias": jnp.zeros(50)}, "batch_stats": {}}
    return state.create_state(variables, optax.sgd(0.1, momentum=0.9), ema)


def test_repr_sums_up():
    assert repr(_state()) == ("TrainState(step=0, 50,050 parameters; 100,101 numbers in 5 arrays, 0.4 MB in all)")
    assert "averaged variables" in repr(_state(ema=True))


def test_repr_of_what_is_traced_described_or_donated():
    seen = []
    shapes = jax.eval_shape(lambda state: (seen.append(repr(state)), state)[1], _state())
    assert seen == [repr(shapes)]
    assert "step=int32[], 50,050 parameters" in repr(shapes)
    donated = _state()
    jax.tree.map(lambda leaf: leaf.delete(), donated)
    assert "step=int32[], 50,050 parameters" in repr(donated)
