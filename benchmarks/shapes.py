"""Writes a data set of drawn shapes, each image with one object whose box and mask are known.

FOLDER/train|validation/<class>/NAME.png are the images, FOLDER/boxes.csv the boxes, FOLDER/masks/NAME.png the masks, as
`inception-jax evaluate --data folder:FOLDER --localization ... --masks ...` reads them.
Command: python -m benchmarks.shapes FOLDER --size 64 --train 4000 --validation 500
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from inception_jax.explain.annotations import write_boxes
from inception_jax.explain.plots import save_mask
from tests.inference import shapes


def write(
    folder: Path,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 64,
    train: Annotated[int, typer.Option(help="Images to train on.")] = 4000,
    validation: Annotated[int, typer.Option(help="Images to look for the objects in.")] = 500,
) -> None:
    """Write the data set; the same numbers give the same images."""
    boxes = {}
    for split, count, seed in (("train", train, 0), ("validation", validation, 1)):
        for name in shapes.CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for i, shape in enumerate(shapes.draw_many(count, size, seed)):
            name = f"{split}_{i:05}"
            Image.fromarray(shape.pixels).save(folder / split / shapes.CLASSES[shape.label] / f"{name}.png")
            if split == "validation":
                (folder / "masks").mkdir(exist_ok=True)
                save_mask(shape.mask * (shape.label + 1), folder / "masks" / f"{name}.png")
                boxes[name] = [(shape.label, shape.box)]
    write_boxes(folder / "boxes.csv", boxes, shapes.CLASSES)


if __name__ == "__main__":
    typer.run(write)
