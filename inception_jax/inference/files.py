"""The image files that the arguments of a command line name: files, folders, globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from inception_jax.data.folders import find_files
from inception_jax.data.pixels import IMAGE_SUFFIXES
from inception_jax.errors import UserError, printable
from inception_jax.inference.images import as_names
from inception_jax.paths import user_path

SUFFIXES = ", ".join(sorted(IMAGE_SUFFIXES))


def find_images(named: str | Iterable[str]) -> list[Path]:
    """Returns the files that paths name, in their order; a string is one path.

    A folder stands for the images below it, at any depth and through links; a glob for the files that match it. Both
    are sorted. Other files in a folder are counted and named in the log. Any other path is returned unchanged, whether
    it exists or not.

    Raises:
      UserError: a folder or a glob without images, or nothing is named.
    """
    found = [path for name in as_names(named) for path in _expand(name)]
    if not found:
        raise UserError("No images are named: give files, folders, globs, or - for a list on stdin.")
    return found


def _expand(name: str) -> list[Path]:
    path = user_path(name)
    if os.path.isdir(path):
        found = find_files(path)
        found.warn(path)
        if not found.files:
            raise UserError(f"Folder {printable(name)} holds no image ({SUFFIXES}).")
        return [Path(each) for each in found.files]
    if glob.has_magic(name) and not os.path.exists(path):
        matching = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
        files = [each for each in matching if not os.path.isdir(each)]
        if not files:
            raise UserError(f"No file matches {printable(name)}.")
        return files
    return [path]
