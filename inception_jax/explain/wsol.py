"""Weakly supervised localisation and segmentation: how well maps of the classes find the objects of a labelled set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.data.pixels import size_of
from inception_jax.errors import UserError
from inception_jax.explain import localisation, subnetworks
from inception_jax.explain.annotations import VOID, Boxes, read_mask
from inception_jax.explain.heatmaps import Box, PlacedHeatmap, heat
from inception_jax.inference.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class ImageLocalisation:
    """Where an image was thought to show its classes.

    Attributes:
      index, name: of the image.
      label: its class.
      guesses: (class, box) of the likeliest classes, the likeliest first.
      box: of the true class, given that class.
      truths: the boxes of the objects of that class; none are known if it is empty.
      map: of the true class [H, W], and where it lies on the image.
    """

    index: int
    name: str
    label: int
    guesses: tuple[tuple[int, Box | None], ...]
    box: Box | None
    truths: tuple[Box, ...]
    map: np.ndarray
    place: Box

    @property
    def iou(self) -> float:
        """Of the box of the true class with the object that fits it best."""
        return max((localisation.iou(self.box, truth) for truth in self.truths), default=0.0) if self.box else 0.0


class Localiser:
    """Looks at every image of an evaluation, and notes where its classes are.

    Args:
      predictor: the network; its class activation maps are taken.
      boxes: of the objects, as `read_boxes` returns them; None: errors of boxes are not asked for.
      masks: a folder of masks, as `read_mask` takes it; None: masks are not compared.
      threshold: share of the largest value of a map that belongs to the object.
    """

    def __init__(
        self,
        predictor: Predictor,
        boxes: Boxes | None = None,
        masks: Path | None = None,
        threshold: float = localisation.THRESHOLD,
    ):
        if masks is not None and not masks.is_dir():
            raise UserError(f"There is no folder {masks} of masks.")
        localisation.check_threshold(threshold)
        self.boxes, self.masks, self.threshold = boxes, masks, threshold
        self.transform = predictor.transform
        self.endpoint = subnetworks.averaged_endpoint(predictor.model)
        self.kernel = np.asarray(predictor.params["classifier"]["linear"]["kernel"], np.float32)
        self.located: list[ImageLocalisation] = []
        self.counts = np.zeros((2, predictor.info.num_classes + 1), np.int64)
        self.masked = 0

    def see(self, record: dict[str, Any], last: np.ndarray, top: np.ndarray, exif: bool = False) -> None:
        """Notes where an image of a record shows its likeliest classes `top`; `last` is its last map [H, W, C].

        Boxes and masks lie on the image as it was read: turned by its EXIF data, if `exif`.
        """
        name, label = record["name"], record["label"]
        if not name:
            raise UserError("The images of these data have no names by which boxes or masks could be found.")
        size = size_of(record["image"], exif)
        place = self.transform.box(*size)
        chosen = [*top.tolist(), label]
        maps = np.einsum("hwc,ck->khw", last, self.kernel[:, chosen], optimize=True)
        heats = PlacedHeatmap(heat(maps), place, *size).each()
        *guessed, box = (localisation.largest_box(each, self.threshold) for each in heats)
        guesses = tuple(zip(chosen, guessed, strict=False))
        objects = (self.boxes or {}).get(name, [])
        truths = tuple(each for index, each in objects if index == label)
        self.located.append(ImageLocalisation(record["index"], name, label, guesses, box, truths, maps[-1], place))
        if self.masks is not None and (truth := read_mask(self.masks, name, size)) is not None:
            mask = localisation.pseudo_mask(PlacedHeatmap(heat(maps[-1:]), place, *size), [label], self.threshold)
            labels = self.counts.shape[1]
            self.counts += localisation.overlaps(mask, truth, labels, VOID if labels <= VOID else None)
            self.masked += 1

    def metrics(self) -> dict[str, float]:
        """Returns the errors of boxes, the mean overlap, and the mean IoU of masks, over the images that have some.

        Raises:
          UserError: no image has a box, or a mask.
        """
        metrics: dict[str, float] = {"threshold": self.threshold}
        if self.boxes is not None:
            metrics |= self._box_metrics(self.boxes)
        if self.masks is not None:
            if not self.masked:
                raise UserError(f"{self.masks} has masks of none of the images, as NAME.png.")
            metrics |= {"images_with_masks": self.masked, "mean_iou_of_masks": localisation.mean_iou(self.counts)}
        return metrics

    def _box_metrics(self, boxes: Boxes) -> dict[str, float]:
        names = [each.name for each in self.located]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"Several images are called {twice}: boxes are found by names, which must differ.")
        known = [each for each in self.located if each.truths]
        if not known:
            raise UserError(f"Of {len(names)} images none has a box of its class; the first is {names[0]}.")
        guesses, labels, truths = [e.guesses for e in known], [e.label for e in known], [e.truths for e in known]
        errors = {f"top{k}_error": localisation.localisation_error(guesses, labels, truths, k) for k in (1, 5)}
        given = [[(each.label, each.box)] for each in known]
        return {
            "images_with_boxes": len(known),
            **errors,
            "known_class_error": localisation.localisation_error(given, labels, truths, k=1),
            "mean_iou_of_boxes": float(np.mean([each.iou for each in known])),
        }
