"""Files of repositories on the Hugging Face hub, by its own client; a hub elsewhere is named by HF_ENDPOINT.

The client answers what a repository has: addresses, versions, sizes and SHA-256, and it adds the token of HF_TOKEN.
The bytes come by `download`, because the client (2.4) neither compares a SHA-256 nor keeps what an interrupted
process has received. A file in the cache of the client, which timm fills, is used where it is.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from inception_jax.errors import UserError, first_line, printable
from inception_jax.weights.hub.download import OFFLINE, Record, Remote, digest_of, fetch, offline

ADDRESS = re.compile(r"https://huggingface\.co/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")


class HubFile(NamedTuple):
    """A file of a repository; `revision` is a branch, a tag or a commit."""

    repo: str
    file: str
    revision: str = "main"

    @property
    def title(self) -> str:
        """What the file is called in messages."""
        revision = self.revision[:8] if COMMIT.fullmatch(self.revision) else self.revision
        return f"hf-hub:{self.repo}@{revision}/{self.file}"

    @property
    def url(self) -> str:
        """The address of the file."""
        import huggingface_hub

        return huggingface_hub.hf_hub_url(self.repo, self.file, revision=self.revision, endpoint=endpoint())


class Stated(NamedTuple):
    """What the hub states of a file: its commit, its size in bytes, and its tag (for large files the SHA-256)."""

    commit: str
    size: int | None
    tag: str


class Got(NamedTuple):
    """A file of the hub on this machine.

    Attributes:
      path: where it is.
      sha256: that the hub states; "": it states none, or the hub was not asked.
      commit: of the repository; "": not asked.
      note: for the report of the loading; "": nothing to say.
    """

    path: Path
    sha256: str = ""
    commit: str = ""
    note: str = ""


class Unreachable(UserError):
    """The hub does not answer, or must not be asked; a file that is on this machine may serve."""


class Missing(UserError):
    """The repository has no such file."""


def endpoint() -> str | None:
    """Returns the address of the hub; None: huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def parse_card_url(url: str) -> HubFile | None:
    """Returns the file of the hub that an address names; None: it is no address of the hub."""
    match = ADDRESS.fullmatch(url)
    return match and HubFile(match["repo"], match["file"], match["revision"])


def get(wanted: HubFile, target: Path, licence: str | None = None, *, refresh: bool = True) -> Got:
    """Returns a file of the hub, downloaded to `target` unless this machine has it.

    Args:
      wanted: the file.
      target: where it is put.
      licence: of the repository, for the announcement; None: the hub is asked.
      refresh: ask the hub whether a downloaded file is still the current one, and download it again if it is not.

    Raises:
      Missing: the repository has no such file.
      Unreachable: the hub does not answer, and the file is not on this machine.
      UserError: the repository does not exist, must not be read, or gives another file than it states.
    """
    try:
        if not refresh and target.exists():
            return _got(target, fetch(target, lambda: _remote(wanted, ask(wanted), licence)))
        stated = ask(wanted)
        pinned = wanted._replace(revision=stated.commit)
        if not target.exists() and (path := in_client_cache(pinned)) and digest_of(path) == stated.tag:
            return Got(path, stated.tag, stated.commit)
        record = fetch(target, lambda: _remote(wanted, stated, licence), version=stated.tag)
        return _got(target, record, stated.commit)
    except Unreachable as error:
        return _without_hub(wanted, target, error)


def _remote(wanted: HubFile, stated: Stated, licence: str | None) -> Remote:
    """Returns what to download."""
    return Remote(
        title=wanted.title,
        file=wanted.file,
        urls=(wanted._replace(revision=stated.commit).url,),
        size=stated.size,
        hashes=(f"sha256:{stated.tag}",) if SHA256.fullmatch(stated.tag) else (),
        licence=licence or _licence(wanted),
        version=stated.tag,
        headers=_headers(),
    )


def ask(wanted: HubFile) -> Stated:
    """Returns what the hub states of a file.

    Raises:
      Missing: the repository has no such file.
      Unreachable: the hub does not answer, or HF_HUB_OFFLINE is set.
      UserError: the repository or the revision does not exist, or must not be read.
    """
    if offline():
        raise Unreachable(f"{OFFLINE} is set")
    import huggingface_hub

    with explained(wanted.title):
        found = huggingface_hub.get_hf_file_metadata(wanted.url, token=None, endpoint=endpoint())
    if not found.commit_hash or not found.etag:
        where = endpoint() or "https://huggingface.co"
        raise Unreachable(f"{where} answers, but not as a hub does: a proxy, or a wrong HF_ENDPOINT")
    return Stated(found.commit_hash, found.size, found.etag)


def _without_hub(wanted: HubFile, target: Path, error: Unreachable) -> Got:
    """Returns the file as this machine has it.

    Raises:
      Unreachable: it does not have it, or it is damaged.
    """
    note = f"{wanted.title} was not compared with the hub: {error}"
    record = Record.read(target)
    if target.exists() and (record is None or digest_of(target) == record.sha256):
        return _got(target, record)._replace(note=note)
    path = in_client_cache(wanted)
    if path is not None:
        name = path.resolve().name  # the client names a large file by its SHA-256
        sha256 = name if SHA256.fullmatch(name) else ""
        if not sha256 or digest_of(path) == sha256:
            return Got(path, sha256, note=note)
    damaged = f"{printable(target)} is damaged, and " if target.exists() else ""
    raise Unreachable(
        f"{damaged}{wanted.title} cannot be downloaded: {error}. Download {printable(wanted.file)} from {wanted.url} "
        f"and put it at {printable(target)}."
    ) from error


def _got(target: Path, record: Record | None, commit: str = "") -> Got:
    """Returns the file at `target`; its record is None if someone put it there."""
    if record is None:
        return Got(target, note=f"{target} was put there, not downloaded")
    return Got(target, record.version if SHA256.fullmatch(record.version) else "", commit)


def in_client_cache(wanted: HubFile) -> Path | None:
    """Returns the file in the cache of huggingface_hub, which other programs fill; None: it is not there."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    return Path(found) if isinstance(found, str) else None


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # it is imported on first use

    return dict(build_hf_headers(library_name="inception_jax"))


def _licence(wanted: HubFile) -> str | None:
    """Returns the licence that a repository states."""
    import huggingface_hub

    with explained(wanted.title):
        card = huggingface_hub.HfApi(endpoint=endpoint()).model_info(wanted.repo, revision=wanted.revision).card_data
    stated = card.to_dict() if card else {}
    return stated.get("license_name") or stated.get("license")


@contextlib.contextmanager
def explained(title: str) -> Iterator[None]:
    """Turns the errors of the client into a `UserError` of one line; `title` names what was asked for."""
    from huggingface_hub import errors

    shown = printable(title)
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(
            f"{shown}: its terms must be accepted on the page of the repository; then set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{shown}: there is no such repository, or it is private and HF_TOKEN does not open it."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{shown}: the repository has no such revision.") from error
    except errors.EntryNotFoundError as error:
        raise Missing(f"{shown}: the repository has no such file.") from error
    except errors.HFValidationError as error:
        raise UserError(f"{shown}: {first_line(error)}.") from error
    except errors.OfflineModeIsEnabled as error:
        raise Unreachable(f"{OFFLINE} is set") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(f"{shown}: the hub refuses (HTTP {status}): {first_line(error)}. Set HF_TOKEN.") from error
        raise Unreachable(f"the hub answers HTTP {status}: {first_line(error)}") from error
    except _transport_errors() as error:
        raise Unreachable(f"the hub cannot be reached: {first_line(error)}") from error
    except (ValueError, RuntimeError) as error:  # of an upload: metadata that the hub refuses, or what its parts raise
        cause = f" ({first_line(error.__cause__)})" if error.__cause__ else ""
        raise UserError(f"{shown}: {' '.join(str(error).split())}{cause}") from error


def _transport_errors() -> tuple[Any, ...]:
    """Returns the errors of a connection: those of the HTTP library that the client uses, and the system's."""
    try:
        import httpx2 as library
    except ImportError:  # huggingface_hub 1
        import httpx as library  # type: ignore[no-redef]
    return library.HTTPError, OSError
