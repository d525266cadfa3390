"""Draws images of one object each, a shape of random colour and size on random ground, whose box and mask are known.

As a program it writes a data set of them:

FOLDER/train|validation/<class>/NAME.png are the images, FOLDER/boxes.csv the boxes, FOLDER/masks/NAME.png the masks, as
`inception-jax evaluate --data folder:FOLDER --localization ... --masks ...` reads them.
Command: python -m benchmarks.shapes FOLDER --size 64 --train 4000 --validation 500
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from PIL import Image, ImageDraw

from inception_jax.explain.annotations import write_boxes
from inception_jax.explain.plots import save_mask

CLASSES = ("cross", "disc", "ring", "square", "triangle")


class Shape(NamedTuple):
    """Pixels [size, size, 3], the index of the class, and the mask [size, size] of the object."""

    pixels: np.ndarray
    label: int
    mask: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the object, the last two exclusive."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def draw(label: int, size: int, rng: np.random.Generator) -> Shape:
    """Returns an image of class `label`, whose object measures 0.35 to 0.65 of it."""
    side = float(rng.uniform(0.35, 0.65) * size)
    left, top = rng.uniform(0, size - side, 2)
    mask = _mask(CLASSES[label], left, top, side, size)
    ground = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(ground).astype(np.float32)
    colour = _far_from(pixels[mask].mean(0), rng)
    pixels[mask] = colour
    pixels = pixels + rng.normal(0, 12, pixels.shape)
    return Shape(np.clip(pixels, 0, 255).astype(np.uint8), label, mask)


def draw_many(count: int, size: int, seed: int) -> list[Shape]:
    """Returns `count` images, of each class in turn."""
    rng = np.random.default_rng(seed)
    return [draw(i % len(CLASSES), size, rng) for i in range(count)]


def _mask(name: str, left: float, top: float, side: float, size: int) -> np.ndarray:
    """Returns the pixels of a shape that fills a square of `side` pixels, drawn four times as large."""
    image = Image.new("L", (4 * size, 4 * size))
    pen = ImageDraw.Draw(image)
    x, y, s = (4 * value for value in (left, top, side))
    match name:
        case "disc":
            pen.ellipse((x, y, x + s, y + s), fill=255)
        case "ring":
            pen.ellipse((x, y, x + s, y + s), fill=255)
            pen.ellipse((x + s / 4, y + s / 4, x + 3 * s / 4, y + 3 * s / 4), fill=0)
        case "square":
            pen.rectangle((x, y, x + s, y + s), fill=255)
        case "triangle":
            pen.polygon([(x + s / 2, y), (x, y + s), (x + s, y + s)], fill=255)
        case "cross":
            pen.rectangle((x + s / 3, y, x + 2 * s / 3, y + s), fill=255)
            pen.rectangle((x, y + s / 3, x + s, y + 2 * s / 3), fill=255)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX)) > 127


def _far_from(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a colour at least 100 levels from another."""
    while True:
        drawn = rng.uniform(0, 255, 3)
        if np.linalg.norm(drawn - colour) > 100:
            return drawn


def write(
    folder: Path,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 64,
    train: Annotated[int, typer.Option(help="Images to train on.")] = 4000,
    validation: Annotated[int, typer.Option(help="Images to look for the objects in.")] = 500,
) -> None:
    """Write the data set; the same numbers give the same images."""
    boxes = {}
    for split, count, seed in (("train", train, 0), ("validation", validation, 1)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for i, shape in enumerate(draw_many(count, size, seed)):
            name = f"{split}_{i:05}"
            Image.fromarray(shape.pixels).save(folder / split / CLASSES[shape.label] / f"{name}.png")
            if split == "validation":
                (folder / "masks").mkdir(exist_ok=True)
                save_mask(shape.mask * (shape.label + 1), folder / "masks" / f"{name}.png")
                boxes[name] = [(shape.label, shape.box)]
    write_boxes(folder / "boxes.csv", boxes, CLASSES)


if __name__ == "__main__":
    typer.run(write)
