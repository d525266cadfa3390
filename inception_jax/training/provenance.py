"""Files of a workdir that say what the run started from and what its classes are called.

| file | what |
|---|---|
| `finetune.json` | of a run that started from weights: which, how their network is built and how its input is made |
| `classes.txt` | the name of each class, one a line, in the order of the labels |
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from inception_jax import weights
from inception_jax.classes import one_line_each
from inception_jax.errors import UserError, printable
from inception_jax.models.zoo import ModelCard, model_card
from inception_jax.paths import write_bytes
from inception_jax.training.config import TrainConfig
from inception_jax.training.limits import named
from inception_jax.training.records import DamagedCheckpoint, read_signed, read_start, sign
from inception_jax.training.workdir import Folder
from inception_jax.weights.files import from_json, to_json

logger = logging.getLogger(__name__)

RECORD = "finetune.json"
CLASSES = "classes.txt"


def write_record(workdir: Path, started: weights.Weights) -> None:
    """Writes finetune.json: which weights the run started from, and how their network and its input are built."""
    record = {"report": str(started.report).splitlines(), "info": json.loads(to_json(started.info))}
    write_bytes(workdir / RECORD, (json.dumps(sign(record), indent=2) + "\n").encode())


def read_start_info(workdir: Folder) -> weights.WeightsInfo:
    """Returns what is on record of the weights that a run started from, from its file or from a checkpoint.

    Raises:
      UserError: neither has it.
    """
    try:
        record = read_signed(workdir / RECORD)
    except DamagedCheckpoint:
        record = {}
    try:
        return from_json(json.dumps(record["info"]))
    except (KeyError, UserError) as error:
        if start := read_start(workdir):
            logger.warning("%s is missing or damaged; a checkpoint says the same", printable(workdir / RECORD))
            return from_json(json.dumps(start))
        raise UserError(
            f"{printable(workdir)} holds a run, but {RECORD}, which says what weights it started from, is missing or "
            "damaged: use another workdir."
        ) from error


def write_classes(workdir: Path, class_names: Sequence[str]) -> None:
    """Writes classes.txt: the name of each class, one a line, in the order of the labels."""
    text = "".join(f"{name}\n" for name in one_line_each(class_names))
    write_bytes(workdir / CLASSES, text.encode(errors="surrogateescape"))  # names of folders may be invalid UTF-8


def read_classes(workdir: Folder) -> tuple[str, ...]:
    """Returns the class names of a run; () if it has no classes.txt, as in earlier versions."""
    path = workdir / CLASSES
    if not path.exists():
        return ()
    return tuple(path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1])


def config_card(config: TrainConfig) -> ModelCard:
    """Returns the card of the model.

    Raises:
      UserError: no model has this name.
    """
    with named("config.model"):
        return model_card(config.model.name)


def card_info(config: TrainConfig, num_classes: int) -> weights.WeightsInfo:
    """Returns the network of a run from scratch: what the model's card and the config say."""
    card = config_card(config)
    preprocess = dataclasses.replace(card.preprocess, size=config.data.image_size or card.preprocess.size)
    return weights.WeightsInfo(
        model=card.name,
        num_classes=num_classes,
        width=config.model.width,
        aux=config.model.aux,
        numerics=card.numerics,
        preprocess=preprocess,
        filled=(),
    )
