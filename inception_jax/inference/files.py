"""The image files that a command line names."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from inception_jax.data.sources import IMAGE_SUFFIXES
from inception_jax.errors import UserError

SUFFIXES = ", ".join(sorted(IMAGE_SUFFIXES))


def find_images(named: Iterable[str]) -> list[Path]:
    """Returns the files that paths name, in their order.

    A folder stands for the images below it, and a glob for the files that match it, both sorted. Any other path is
    returned as it is, whether it exists or not.

    Raises:
      UserError: a folder or a glob without images, or nothing is named.
    """
    found = [path for name in named for path in _expand(name)]
    if not found:
        raise UserError("No images are named: give files, folders, globs, or - for a list on stdin.")
    return found


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
        visible = [each for each in files if not any(part.startswith(".") for part in each.relative_to(path).parts)]
        if not visible:
            raise UserError(f"Folder {name} holds no image ({SUFFIXES}).")
        return visible
    if glob.has_magic(name) and not path.exists():
        matching = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
        files = [each for each in matching if each.is_file()]
        if not files:
            raise UserError(f"No file matches {name}.")
        return files
    return [path]
