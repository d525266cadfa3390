"""Export to StableHLO: a trained network in one file that runs without the code of this package.

The file is a zip archive, stored without compression, of two members: `program.bin`, the network as `jax.export`
serialises it, parameters included; and `info.json`, all fields of `weights.WeightsInfo`. The checksums of the archive
reveal damage.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from typing import Any, cast

import jax
import numpy as np
from jax import export

from inception_jax.errors import UserError, first_line, printable
from inception_jax.inference.fold_and_fuse import for_inference
from inception_jax.models.inputs import normalise
from inception_jax.models.network import ModelOutput
from inception_jax.paths import check_output, open_regular, write_bytes
from inception_jax.weights.files import Weights, WeightsInfo, from_json, to_json

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, INFO = "program.bin", "info.json"
FORMAT, FORMAT_VERSION = "inception_jax.exported", 1


class Exported:
    """An exported network; called with pixels, it returns logits and probabilities, and an embedding if it has one.

    Attributes:
      info: model, class names, preprocessing and source of the network.
      platforms: the platforms that it runs on, by JAX's names.
    """

    def __init__(self, program: export.Exported, info: WeightsInfo):
        self.info, self.platforms = info, program.platforms
        self._run = jax.jit(program.call)

    def __call__(self, images: Any) -> dict[str, jax.Array]:
        """Returns outputs by name, float32, of pixels [N, size, size, C], uint8.

        "logits" and "probabilities" are [N, K], and exist if the network has a classifier; "embedding" is [N, D].
        The program is compiled once for each N.

        Raises:
          UserError: the images are not such pixels.
        """
        images, size, channels = np.asarray(images), self.info.preprocess.size, self.info.in_channels
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, channels) or not len(images):
            raise UserError(
                f"{self.info.model} was exported for pixels uint8[N, {size}, {size}, {channels}], "
                f"not {images.dtype}{list(images.shape)}."
            )
        return self._run(images)


def export_stablehlo(path: str | os.PathLike, weights: Weights, overwrite: bool = False) -> None:
    """Writes the network with its parameters, for any number of images, for CPUs, CUDA and TPUs.

    Raises:
      UserError: the weights have neither classifier nor embedding, the file exists, or it cannot be written.
    """
    check_output(path, overwrite)
    program = bytes(lower(weights).serialize())
    info = {"format": FORMAT, "format_version": FORMAT_VERSION} | json.loads(to_json(weights.info))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(INFO, json.dumps(info, indent=2) + "\n")
        archive.writestr(PROGRAM, program)
    write_bytes(path, buffer.getvalue(), overwrite)


def lower(weights: Weights) -> export.Exported:
    """Returns the program: pixels [b, size, size, C] -> what `Exported` returns, for any b.

    Raises:
      UserError: the weights have neither classifier nor embedding.
    """
    check_exportable(weights)
    model, params = for_inference(weights.create_model(aux=False, implementation="xla"), weights.variables)
    preprocess = weights.info.preprocess

    def run(images: jax.Array) -> dict[str, jax.Array]:
        output = cast(ModelOutput, model.apply({"params": params}, normalise(images, preprocess)))
        classes = {"logits": output.logits, "probabilities": jax.nn.softmax(output.logits)} if model.num_classes else {}
        return classes | ({"embedding": output.embedding} if model.head.embedding else {})

    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, preprocess.size, preprocess.size, weights.info.in_channels), np.uint8)
    return export.export(jax.jit(run), platforms=PLATFORMS)(images)


def check_exportable(weights: Weights) -> None:
    """Raises UserError if the weights have neither classifier nor embedding."""
    if not (weights.info.num_classes or weights.info.head.embedding):
        raise UserError(f"{weights.info.source or weights.info.model} has no classifier to export, and no embedding.")


def load_exported(path: str | os.PathLike) -> Exported:
    """Returns the network in a file that `export_stablehlo` wrote.

    Raises:
      UserError: no such file, not one of these, damaged, of another version, or one that this JAX cannot read.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            packed = [each.filename for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise zipfile.BadZipFile(f"{packed[0]!r} is compressed")  # ours are not; it may claim any size
            members = {name: archive.read(name) for name in archive.namelist() if name in (INFO, PROGRAM)}
    except UserError:
        raise
    except Exception as error:  # zipfile raises nearly anything on damaged files
        raise UserError(f"{printable(path)} is no exported network, or damaged: {first_line(error)}.") from error
    shown = printable(path)
    try:
        values = json.loads(members[INFO])
        kind, version = values.pop("format"), values.pop("format_version")
        program = members[PROGRAM]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{shown} is no exported network: it lacks {INFO} or {PROGRAM} of this package.") from error
    if (kind, version) != (FORMAT, FORMAT_VERSION):
        raise UserError(f"{shown} has format {kind!r} {version}; this version reads {FORMAT!r} {FORMAT_VERSION}.")
    try:
        return Exported(export.deserialize(bytearray(program)), from_json(json.dumps(values)))
    except Exception as error:  # whatever a newer or older JAX finds wrong with the program
        raise UserError(
            f"{printable(path)} cannot be read by JAX {jax.__version__}: {type(error).__name__} {first_line(error)}. "
            "Export it again."
        ) from error
