"""Figures: heatmaps over an image, grids of images; and masks as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process
from matplotlib.patches import Rectangle
from PIL import Image

from inception_jax.errors import UserError
from inception_jax.explain.heatmaps import Box, PlacedHeatmap
from inception_jax.inference.images import as_names
from inception_jax.inference.prediction import Prediction
from inception_jax.labels import label, labels
from inception_jax.paths import check_output, writing

ACCENT, BOX = "#f2b705", "#5ee6ff"
DRAWN = 1600  # pixels of the longer side of an image in a figure
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")
NO_DATES: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


class DisplayImage:
    """A small copy of an image for figures, and the boxes and heatmaps of the whole image in its pixels.

    Args:
      image: RGB.
      side: pixels of the longer side of the copy, which is never larger than the image.
    """

    def __init__(self, image: Image.Image, side: int = DRAWN):
        by = min(side / max(image.size), 1)
        size = [max(round(each * by), 1) for each in image.size]
        self.image = image if by == 1 else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        self.size = image.size
        self._scale = [after / before for after, before in zip(self.image.size, image.size, strict=True)]

    def box(self, box: Box) -> Box:
        """Returns a box of the image in pixels of the copy."""
        x, y = self._scale
        return box[0] * x, box[1] * y, box[2] * x, box[3] * y

    def heat(self, heat: PlacedHeatmap) -> np.ndarray:
        """Returns a heatmap of the image as [..., H, W] in pixels of the copy."""
        return PlacedHeatmap(heat.maps, self.box(heat.box), *self.image.size).rows(0, self.image.height)


class ClassHeatmap(NamedTuple):
    """A class, its heatmap [H, W] in 0 ... 1, and its box, if there is one."""

    class_index: int
    name: str
    heat: PlacedHeatmap
    box: Box | None


def draw_heat(shown: DisplayImage, heats: Sequence[ClassHeatmap], prediction: Prediction, title: str) -> Figure:
    """Returns a figure: the image, the heatmap and box of each class over it, and the likeliest classes as bars."""
    count, image = len(heats) + 1, shown.image
    wide = image.width / image.height
    figure = Figure(figsize=(3.2 * count * min(max(wide, 0.6), 1.8) + 3.4, 3.7), layout="constrained")
    _title(figure, title)
    axes = figure.subplots(1, count + 1, width_ratios=[min(max(wide, 0.6), 1.8)] * count + [0.95])
    _show(axes[0], np.asarray(image), "image")
    for axis, found in zip(axes[1:-1], heats, strict=True):
        _show(axis, overlay(image, shown.heat(found.heat)), found.name, instead=f"class {found.class_index}")
        if found.box is not None:
            draw_box(axis, shown.box(found.box))
    _bars(axes[-1], prediction)
    return figure


def overlay(image: Image.Image, heat: np.ndarray, strength: float = 0.7) -> np.ndarray:
    """Returns an image [H, W, 3] in 0 ... 1 under heat [H, W]; the opacity of the heat grows with its square root."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    background = 0.35 * np.asarray(image, np.float32) / 255 + 0.65 * grey
    colours = matplotlib.colormaps["inferno"](0.15 + 0.8 * heat)[..., :3]
    alpha = (strength * np.sqrt(heat))[..., None]
    return np.clip((1 - alpha) * background + alpha * colours, 0, 1)


def draw_box(axis: Axes, box: Box, colour: str = BOX) -> None:
    """Draws a box on an image, with a black edge so that it stands out from any background."""
    left, top, right, bottom = box
    for width, edge in ((4.0, "black"), (2.0, colour)):
        corner, sides = (left - 0.5, top - 0.5), (right - left, bottom - top)
        axis.add_patch(Rectangle(corner, *sides, fill=False, lw=width, ec=edge))


def draw_grid(tiles: Iterable[np.ndarray], title: str, names: Sequence[str] = (), cmap: str | None = None) -> Figure:
    """Returns a figure of images [H, W, 3] in 0 ... 1, or of feature maps [H, W], in a grid that is nearly square.

    Raises:
      UserError: there are no images, or not as many names as images.
    """
    images, names = list(tiles), as_names(names)
    if not images or len(names) not in (0, len(images)):
        raise UserError(f"A grid needs an image for each name: there are {len(images)} and {len(names)}.")
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    figure = Figure(
        figsize=(0.9 * columns + 0.4, 0.9 * rows + (0.18 * rows if len(names) else 0) + 0.5), layout="constrained"
    )
    _title(figure, title)
    for axis in (axes := figure.subplots(rows, columns, squeeze=False).ravel()):
        axis.axis("off")
    for i, tile in enumerate(images):
        _show(axes[i], tile, names[i] if len(names) else "", cmap)
    return figure


def check_figure(path: Path, overwrite: bool) -> Path:
    """Returns the path of a figure; raises the `UserError` of `check_output`, also for a suffix not in `SUFFIXES`."""
    return check_output(path, overwrite, SUFFIXES)


def save(figure: Figure, path: Path, overwrite: bool = False, dpi: int = 110) -> None:
    """Writes a figure in the format of its suffix.

    Raises:
      UserError: the suffix is not in `SUFFIXES`, the file exists, or it cannot be written.
    """
    suffix = check_figure(path, overwrite).suffix.lower()
    with writing(path, overwrite) as file:
        figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=NO_DATES.get(suffix))


def check_mask(path: Path, overwrite: bool) -> Path:
    """Returns the path of a mask; raises the `UserError` of `check_output`, also unless it ends in .png."""
    return check_output(path, overwrite, (".png",))


def save_mask(mask: np.ndarray, path: Path, overwrite: bool = False) -> None:
    """Writes labels [H, W] as a 16-bit PNG: 0 is background, i + 1 the class i.

    Raises:
      UserError: another suffix, a label over 65535, the file exists, or it cannot be written.
    """
    check_mask(path, overwrite)
    if mask.max(initial=0) > np.iinfo(np.uint16).max:
        raise UserError(f"A mask holds the label {mask.max()}; a 16-bit PNG holds labels up to 65535.")
    with writing(path, overwrite) as file:
        Image.fromarray(mask.astype(np.uint16)).save(file, "PNG")


def _title(figure: Figure, title: str) -> None:
    text, style = label(title)
    figure.suptitle(text, fontsize="medium", **style)


def _show(axis: Axes, image: np.ndarray, name: str, cmap: str | None = None, instead: str | None = None) -> None:
    small = max(image.shape[:2]) < 150
    axis.imshow(image, cmap=cmap, interpolation="nearest" if small else "antialiased")
    text, style = label(name, instead)
    axis.set_title(text, fontsize="small", **style)
    axis.axis("off")


def _bars(axis: Axes, prediction: Prediction) -> None:
    """Draws the probabilities of the classes as bars, the likeliest on top."""
    numbers = [f"class {each.index}" for each in prediction.classes]
    named = zip(prediction.classes, numbers, strict=True)
    names, style = labels([short_name(each.label) or number for each, number in named], numbers)
    shares = [each.probability for each in prediction.classes]
    axis.barh(range(len(shares)), shares, color=[ACCENT, *["#9aa5b1"] * (len(shares) - 1)], height=0.42)
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        axis.text(0, i - 0.33, f"{name}  {share:.1%}", va="bottom", fontsize="small", **style)
    axis.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.9))
    axis.axis("off")


def short_name(label: str) -> str:
    """Returns the first of comma-separated names."""
    return label.partition(",")[0]
