"""Pickles that are not read, because reading them runs what they ask for, and what can be read in their place."""

from __future__ import annotations

import io
import pickletools
from pathlib import Path

from inception_jax.paths import open_regular

LOOKED_AT = 1 << 20  # bytes
ADVICE = (  # a module that the pickle asks for, what it is, and the way to its tensors
    (
        "numpy",
        "a pickle of NumPy arrays",
        "save them with safetensors.numpy.save_file under the names of an origin. The file for the FID in JAX, "
        "inception_v3_weights_fid.pickle, has the weights of pytorch-fid's pt_inception-2015-12-05-6726825d.pth: "
        "that is read",
    ),
    (
        "torch_utils",
        "a pickle with Python code, of StyleGAN",
        "inception-2015-12-05.pt of StyleGAN2-ADA holds the network of inception-v3-2015-12-05.pkl, and is read",
    ),
)


def advice(path: Path) -> str:
    """Returns what a pickle is and what can be done, for a message; "": nothing is known. Nothing in it is run."""
    with open_regular(path) as file:
        head = file.read(LOOKED_AT)
    texts: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(io.BytesIO(head)):
            if isinstance(argument, str) and (operation.name == "GLOBAL" or "UNICODE" in operation.name):
                texts.append(argument.split(" ")[0])
    except Exception:  # the head ends in the middle of an operation, or it is no pickle
        pass
    for module, what, way in ADVICE:
        if any(text.split(".")[0] == module for text in texts):
            return f"it is {what}; nothing in it was run. {way[0].upper()}{way[1:]}"
    return ""
