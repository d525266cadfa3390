"""Weakly supervised object localisation (WSOL): how well class activation maps find the objects of a labelled set."""

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
    """The predicted and the true boxes of an image.

    Attributes:
      index, name: of the image.
      label: its class.
      guesses: (class, box) of the likeliest classes, the likeliest first.
      box: the box of the true class, from its map.
      truths: the annotated boxes of that class; empty if there are none.
      map: the class activation map of the true class [H, W].
      read_box: the part of the image that the network read, which the map covers.
    """

    index: int
    name: str
    label: int
    guesses: tuple[tuple[int, Box | None], ...]
    box: Box | None
    truths: tuple[Box, ...]
    map: np.ndarray
    read_box: Box

    @property
    def iou(self) -> float:
        """The intersection over union of `box` with the annotated box that it overlaps most; 0 if there is none."""
        return max((localisation.iou(self.box, truth) for truth in self.truths), default=0.0) if self.box else 0.0


class Localiser:
    """Observes an evaluation (`evaluation.ActivationObserver`) and collects the boxes and masks of every image.

    Args:
      predictor: the network whose class activation maps are used.
      boxes: of the objects, as `read_boxes` returns them; None: no errors of boxes.
      masks: a folder of masks, as `read_mask` takes it; None: no errors of masks.
      threshold: pixels above this share of the maximum of a map belong to the object.

    Raises:
      UserError: the folder of masks does not exist, the threshold is out of range, or the network has no class
        activation maps (see `cam.cam`).
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
        subnetworks.check_linear(predictor.model, predictor.info.source)
        self.boxes, self.masks, self.threshold = boxes, masks, threshold
        self.transform = predictor.transform
        self.endpoint = subnetworks.averaged_endpoint(predictor.model)
        self.kernel = np.asarray(predictor.params["classifier"]["linear"]["kernel"], np.float32)
        self.located: list[ImageLocalisation] = []
        self.counts = np.zeros((2, predictor.info.num_classes + 1), np.int64)
        self.masked = 0

    def see(self, record: dict[str, Any], last: np.ndarray, top: np.ndarray, exif: bool = False) -> None:
        """Collects the boxes of an image for its likeliest classes `top` and for its true class.

        Args:
          record: of the image.
          last: its last activations [H, W, C].
          top: class indices, the likeliest first.
          exif: boxes and masks lie on the image as turned by its EXIF orientation.
        """
        name, label = record["name"], record["label"]
        if not name:
            raise UserError("The images of these data have no names by which boxes or masks could be found.")
        size = size_of(record["image"], exif)
        read_box = self.transform.box(*size)
        chosen = [*top.tolist(), label]
        maps = np.einsum("hwc,ck->khw", last, self.kernel[:, chosen], optimize=True)
        heats = PlacedHeatmap(heat(maps), read_box, *size).each()
        *guessed, box = (localisation.largest_box(each, self.threshold) for each in heats)
        guesses = tuple(zip(chosen, guessed, strict=False))
        objects = (self.boxes or {}).get(name, [])
        truths = tuple(each for index, each in objects if index == label)
        self.located.append(ImageLocalisation(record["index"], name, label, guesses, box, truths, maps[-1], read_box))
        if self.masks is not None and (truth := read_mask(self.masks, name, size)) is not None:
            mask = localisation.pseudo_mask(PlacedHeatmap(heat(maps[-1:]), read_box, *size), [label], self.threshold)
            labels = self.counts.shape[1]
            self.counts += localisation.overlaps(mask, truth, labels, VOID if labels <= VOID else None)
            self.masked += 1

    def metrics(self) -> dict[str, float]:
        """Returns the localisation errors, the mean IoU of boxes and the mean IoU of masks, over the annotated images.

        Raises:
          UserError: boxes or masks were given, and no image has any.
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
