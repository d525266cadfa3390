"""Pictures for people: where a network looks, grids of images, and masks as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process
from matplotlib.patches import Rectangle
from PIL import Image

from inception_jax.errors import UserError
from inception_jax.inference.heat import Box
from inception_jax.inference.predictor import Prediction

ACCENT, BOX = "#f2b705", "#5ee6ff"


def draw_heat(
    image: Image.Image, heats: Sequence[tuple[str, np.ndarray, Box | None]], prediction: Prediction, title: str
) -> Figure:
    """Returns a figure: the image, each (name, heat [H, W] in 0 ... 1, box) over it, and the classes as bars."""
    count = len(heats) + 1
    wide = image.width / image.height
    figure = Figure(figsize=(3.2 * count * min(max(wide, 0.6), 1.8) + 3.4, 3.7), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots(1, count + 1, width_ratios=[min(max(wide, 0.6), 1.8)] * count + [0.95])
    _show(axes[0], np.asarray(image), "image")
    for axis, (name, heat, box) in zip(axes[1:-1], heats, strict=True):
        _show(axis, overlay(image, heat), name)
        if box is not None:
            draw_box(axis, box)
    _bars(axes[-1], prediction)
    return figure


def overlay(image: Image.Image, heat: np.ndarray, strength: float = 0.7) -> np.ndarray:
    """Returns an image [H, W, 3] under heat [H, W] in 0 ... 1; where it is hot, its colour hides the image most."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    ground = 0.35 * np.asarray(image, np.float32) / 255 + 0.65 * grey
    colours = matplotlib.colormaps["inferno"](0.15 + 0.8 * heat)[..., :3]
    alpha = (strength * np.sqrt(heat))[..., None]
    return np.clip((1 - alpha) * ground + alpha * colours, 0, 1)


def draw_box(axis: Axes, box: Box, colour: str = BOX) -> None:
    """Draws a box on an image, so that it is seen on any ground."""
    left, top, right, bottom = box
    for width, edge in ((4.0, "black"), (2.0, colour)):
        corner, sides = (left - 0.5, top - 0.5), (right - left, bottom - top)
        axis.add_patch(Rectangle(corner, *sides, fill=False, lw=width, ec=edge))


def draw_grid(tiles: Iterable[np.ndarray], title: str, names: Sequence[str] = (), cmap: str | None = None) -> Figure:
    """Returns a figure of images [H, W, 3] in 0 ... 1, or of maps [H, W], near to a square of them."""
    images = list(tiles)
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    figure = Figure(
        figsize=(0.9 * columns + 0.4, 0.9 * rows + (0.18 * rows if len(names) else 0) + 0.5), layout="constrained"
    )
    figure.suptitle(title, fontsize="medium")
    for axis in (axes := figure.subplots(rows, columns, squeeze=False).ravel()):
        axis.axis("off")
    for i, tile in enumerate(images):
        _show(axes[i], tile, names[i] if len(names) else "", cmap)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure; the suffix of the name is its kind.

    Raises:
      UserError: it cannot be written.
    """
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # matplotlib's for a suffix that it does not know
        raise UserError(f"Cannot write {path}: {getattr(error, 'strerror', None) or error}.") from error


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Writes labels [H, W] as a PNG of 16 bits: 0 is background, i + 1 the class i.

    Raises:
      UserError: another suffix, or it cannot be written.
    """
    if path.suffix != ".png":
        raise UserError(f"{path}: masks are written as .png files.")
    try:
        Image.fromarray(mask.astype(np.uint16)).save(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error


def _show(axis: Axes, image: np.ndarray, name: str, cmap: str | None = None) -> None:
    small = max(image.shape[:2]) < 150
    axis.imshow(image, cmap=cmap, interpolation="nearest" if small else "antialiased")
    axis.set_title(name, fontsize="small")
    axis.axis("off")


def _bars(axis: Axes, prediction: Prediction) -> None:
    """Draws the classes as bars, the likeliest on top."""
    names = [_short(each.label) or f"class {each.index}" for each in prediction.classes]
    shares = [each.probability for each in prediction.classes]
    axis.barh(range(len(shares)), shares, color=[ACCENT, *["#9aa5b1"] * (len(shares) - 1)], height=0.42)
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        axis.text(0, i - 0.33, f"{name}  {share:.1%}", va="bottom", fontsize="small")
    axis.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.9))
    axis.axis("off")


def _short(label: str) -> str:
    """Returns the first of the names between commas."""
    return label.partition(",")[0]
