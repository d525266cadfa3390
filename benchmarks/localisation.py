"""Measures how well class activation maps localise objects, after training on classes alone, on drawn shapes.

Command: python -m benchmarks.localisation [--steps 600] [--json FILE] [--picture FILE.png] [--weights FILE.npz]

A network of a few rows of GoogLeNet, whose last activations have half the size of the image (GoogLeNet-GAP, too, keeps
them large), is trained here. The box of the true class's map, at the paper's threshold, is compared with the object's.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from matplotlib.figure import Figure
from PIL import Image

from benchmarks import shapes
from inception_jax.explain import cam, localisation, plots
from inception_jax.explain.heatmaps import heat, on_image
from inception_jax.inference.predictor import Predictor
from inception_jax.models import inputs, zoo
from inception_jax.models.inputs import normalise
from inception_jax.models.network import InceptionNet
from inception_jax.weights import Weights, WeightsInfo

ROWS = ("conv1", "pool3", "4a", "4b")
SIZE, BATCH = 64, 32
Method = Callable[..., cam.Explanation]


@dataclasses.dataclass(frozen=True)
class FewRows(Weights):
    """Weights of `ROWS` of googlenet_cifar alone."""

    def create_model(self, *args: Any, **overrides: Any) -> InceptionNet:
        model = super().create_model(*args, **overrides)
        return model.clone(table={row: model.table[row] for row in ROWS})


def info() -> WeightsInfo:
    """Returns what the weights are of: images of SIZE pixels, the classes of the shapes, a twentieth of the width."""
    card = zoo.model_card("googlenet_cifar")
    preprocess = dataclasses.replace(inputs.CIFAR, size=SIZE, crop_fraction=1.0)
    return WeightsInfo(
        model=card.name,
        num_classes=len(shapes.CLASSES),
        aux=False,
        preprocess=preprocess,
        numerics=card.numerics,
        width=0.05,
        source="benchmarks/localisation.py",
        class_names=shapes.CLASSES,
    )


def train(steps: int, seed: int) -> FewRows:
    """Returns weights trained on new images at every step, with class labels alone."""
    source = FewRows(info(), {})
    model = source.create_model(aux=False, dropout=0.0)
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, SIZE, SIZE, 3)))
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0, 5e-3, steps // 10, steps))
    rng = np.random.default_rng((seed, 0))

    @jax.jit
    def step(variables: Any, state: Any, pixels: jax.Array, labels: jax.Array) -> tuple[Any, Any, jax.Array, jax.Array]:
        def loss(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
            output, new = model.apply(
                {**variables, "params": params},
                normalise(pixels, source.info.preprocess),
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)
            return losses.mean(), (new["batch_stats"], (output.logits.argmax(-1) == labels).mean())

        (value, (statistics, right)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradients, state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": statistics}, state, value, right

    state = optimizer.init(variables["params"])
    for i in range(steps):
        drawn = [shapes.draw(int(label), SIZE, rng) for label in rng.integers(len(shapes.CLASSES), size=BATCH)]
        pixels, labels = np.stack([shape.pixels for shape in drawn]), np.array([shape.label for shape in drawn])
        variables, state, value, right = step(variables, state, pixels, labels)
        if i % 25 == 24:
            print(f"step {i + 1}/{steps}  loss {float(value):.3f}  top1 {float(right):.0%}", flush=True)
    return FewRows(source.info, jax.tree.map(np.asarray, dict(variables)))


def explain(predictor: Predictor, method: Method, drawn: Sequence[shapes.Shape]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the predicted classes [N], and the heatmaps [N, SIZE, SIZE] of the true ones."""
    found = method(predictor, [shape.pixels for shape in drawn], np.array([[shape.label] for shape in drawn]))
    return found.logits.argmax(-1), on_image(heat(found.maps[:, 0]), predictor.transform.box(SIZE, SIZE), SIZE, SIZE)


def measure(predicted: np.ndarray, heats: np.ndarray, drawn: Sequence[shapes.Shape]) -> dict[str, float]:
    """Returns the localisation metrics of the boxes and masks of heatmaps."""
    labels, truths = [shape.label for shape in drawn], [shape.box for shape in drawn]
    boxes = [localisation.largest_box(each) for each in heats]
    overlaps = np.array([localisation.iou(box, truth) if box else 0 for box, truth in zip(boxes, truths, strict=True)])
    counts = np.zeros((2, len(shapes.CLASSES) + 1), np.int64)
    for each, shape in zip(heats, drawn, strict=True):
        mask = localisation.pseudo_mask(each[None], [shape.label])
        counts += localisation.overlaps(mask, np.where(shape.mask, shape.label + 1, 0), counts.shape[1])
    guesses = [[(int(index), box)] for index, box in zip(predicted, boxes, strict=True)]  # counts if the class is right
    figures = {
        "boxes_over_0.5": np.mean(overlaps > localisation.HIT),
        "mean_iou_of_boxes": overlaps.mean(),
        "localisation_error_top1": localisation.localisation_error(guesses, labels, [[box] for box in truths], k=1),
        "miou_of_masks": localisation.mean_iou(counts),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def draw(predictor: Predictor, drawn: Sequence[shapes.Shape], path: Path) -> None:
    """Draws images, and below each its heatmap with the box found."""
    figure = Figure(figsize=(1.4 * len(drawn), 3.1), layout="constrained")
    axes = figure.subplots(2, len(drawn))
    for i, (shape, each) in enumerate(zip(drawn, explain(predictor, cam.cam, drawn)[1], strict=True)):
        axes[0, i].imshow(shape.pixels)
        axes[0, i].set_title(shapes.CLASSES[shape.label], fontsize="small")
        axes[1, i].imshow(plots.overlay(Image.fromarray(shape.pixels), each))
        if (box := localisation.largest_box(each)) is not None:
            plots.draw_box(axes[1, i], box)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardware", default="", help="description of the machine, for the row")
    parser.add_argument("--json", type=Path, help="append a row of figures to this file")
    parser.add_argument("--picture", type=Path, help="draw eight images with heatmaps and boxes")
    parser.add_argument("--weights", type=Path, help="write the variables; read them instead of training if it exists")
    args = parser.parse_args()
    if args.weights and args.weights.exists():
        with np.load(args.weights) as file:
            flat = {tuple(name.split("/")): file[name] for name in file}
        source = FewRows(info(), traverse_util.unflatten_dict(flat))
    else:
        source = train(args.steps, args.seed)
        if args.weights:
            np.savez(args.weights, **source.flat())
    predictor = Predictor(source, max_batch=100)
    figures: dict[str, Any] = {}
    drawn = shapes.draw_many(500, SIZE, seed=1)
    for name, method in (("cam", cam.cam), ("occlusion", cam.occlusion)):
        predicted, heats = explain(predictor, method, drawn)
        figures["top1"] = round(float(np.mean(predicted == [shape.label for shape in drawn])), 4)
        figures[name] = measure(predicted, heats, drawn)
    row = {
        "command": f"python -m benchmarks.localisation --steps {args.steps} --seed {args.seed}",
        "hardware": args.hardware,
        "date": f"{datetime.date.today()}",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "scipy")},
        "figures": figures,
    }
    print(json.dumps(row, indent=1))
    if args.picture:
        draw(predictor, drawn[:8], args.picture)
    if args.json:
        with args.json.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
