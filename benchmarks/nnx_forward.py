"""Times the jitted forward pass of a network as a flax.nnx module against the same network in Linen.

    python benchmarks/nnx_forward.py --model googlenet_torchvision --batch 8 --repeats 40

The two take turns (Linen, nnx, nnx, Linen, ...), so that whatever slows the machine slows both. What `nnx.jit` adds to
a call is independent of the images: it collects the variables of the module in Python. `split` shows how to avoid it:
`jax.jit` of a function of the state that `nnx.split` returns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

import inception_jax as ij


def measure(runs: dict[str, Callable[[], jax.Array]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each call of each function, which take turns in alternating order."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        jax.block_until_ready(run())  # compiles
    names = list(runs)
    for i in range(repeats):
        for name in names if i % 2 == 0 else reversed(names):
            start = time.perf_counter()
            jax.block_until_ready(runs[name]())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="googlenet_torchvision")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--repeats", type=int, default=40)
    asked = parser.parse_args()
    model = ij.create_model(asked.model, aux=False)
    images = np.random.default_rng(0).standard_normal((asked.batch, asked.size, asked.size, 3)).astype(np.float32)
    images = jax.device_put(images)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    net = ij.nnx.to_nnx(model, variables)
    graphdef, state = nnx.split(net)
    linen = jax.jit(lambda variables, images: model.apply(variables, images).logits)
    nnx_jit = nnx.jit(lambda net, images: net(images).logits)
    cached = nnx.cached_partial(nnx.jit(lambda net, images: net(images).logits), net)
    split = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images).logits)
    seconds = measure(
        {
            "linen": lambda: linen(variables, images),
            "nnx.jit": lambda: nnx_jit(net, images),
            "nnx.cached_partial": lambda: cached(images),
            "split": lambda: split(state, images),
        },
        asked.repeats,
    )
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, seconds["linen"], strict=True))
        for name, times in seconds.items()
    }
    print(json.dumps({**vars(asked), "seconds": medians, "by_linen": ratios}))


if __name__ == "__main__":
    main()
