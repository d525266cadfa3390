"""Downloads a file once: from several addresses in turn, checked, written by one of several processes.

Beside a downloaded file stands its record, with the SHA-256 of its content. A file without a record was put there by
someone; it is used as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import filelock

from inception_jax.errors import UserError, printable
from inception_jax.paths import open_regular, write_bytes
from inception_jax.weights.hub.transfer import Unavailable, discard, transfer

OFFLINE = "HF_HUB_OFFLINE"
TRUE = ("1", "ON", "YES", "TRUE")


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes:
      title: what it is called in messages.
      file: its name.
      urls: its addresses, which are tried in turn.
      size: in bytes; None: unknown.
      hashes: "algorithm:digits" of the file; the digits may be cut short.
      licence: of the file; None: not stated.
      version: which edition of the file this is; a downloaded file of another version is replaced.
      headers: of the request.
    """

    title: str
    file: str
    urls: tuple[str, ...]
    size: int | None = None
    hashes: tuple[str, ...] = ()
    licence: str | None = None
    version: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a file that was downloaded: whence, when, its SHA-256, and `Remote.version`."""

    url: str
    fetched: str
    sha256: str
    version: str

    @classmethod
    def read(cls, target: Path) -> Record | None:
        """Returns the record of a file; None if it was not downloaded."""
        try:
            return cls(**json.loads(_record_file(target).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, target: Path) -> None:
        """Writes the record of the file at `target`."""
        write_bytes(_record_file(target), (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())


def offline() -> bool:
    """Returns whether HF_HUB_OFFLINE forbids downloads."""
    return os.environ.get(OFFLINE, "").upper() in TRUE


def fetch(target: Path, describe: Callable[[], Remote], version: str | None = None) -> Record | None:
    """Returns the record of the file at `target`; one that is missing, damaged or of another version is downloaded.

    Args:
      target: the path of the file.
      describe: returns what to download; called only if something is.
      version: that the file must have; None: any.

    Returns:
      None: the file was not downloaded, but put there by someone.

    Raises:
      UserError: no address gives the file, or it cannot be written.
    """
    usable, record = _look(target, version)
    if usable:
        return record
    remote = describe()
    with _locked(target, remote.title):
        usable, record = _look(target, version, say)
        return record if usable else _download(remote, target)


def say(text: str) -> None:
    """Prints a line on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """Returns a checksum of a file, as hexadecimal digits."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _record_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.record")


def _look(
    target: Path, version: str | None, tell: Callable[[str], None] = lambda _: None
) -> tuple[bool, Record | None]:
    """Returns whether the file at `target` can be used, and its record; tells of damage."""
    if not target.exists():
        return False, None
    record = Record.read(target)
    if record is None:
        return True, None
    if version is not None and record.version != version:
        return False, record
    if (found := digest_of(target)) != record.sha256:
        tell(f"{target} is damaged: its SHA-256 is {found}, not {record.sha256}. It is downloaded again.")
        return False, record
    return True, record


@contextlib.contextmanager
def _locked(target: Path, title: str) -> Iterator[None]:
    """Lets one process at a time download a file; the system releases the lock of a process that was killed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"{title}: waiting for another process that downloads it.")
            lock.acquire()
    except OSError as error:
        raise UserError(f"{printable(target.parent)} cannot be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


def _download(remote: Remote, target: Path) -> Record:
    """Downloads a file from the first address that gives it.

    Raises:
      UserError: none does, downloads are forbidden, or the disk is full.
    """
    if offline():
        raise UserError(f"{remote.title} is not downloaded, because {OFFLINE} is set. {by_hand(remote, target)}")
    partial = target.with_name(f".{target.name}.partial")
    refused: list[str] = []
    announced = False

    def announce(url: str, size: int | None, done: int) -> None:
        nonlocal announced
        if not announced:
            say(f"{remote.title}: {remote.file}, {_megabytes(size)}, licence: {remote.licence or 'not stated'}")
            say(f"  from {url} to {target}")
            announced = True
        if done:
            say(f"  continued at {_megabytes(done)}")
        _check_disk(target, (size or 0) - done)

    for url in remote.urls:
        if refused:
            say(f"{refused[-1]}. Trying {url}")
        try:
            transfer(url, partial, remote.size, remote.headers, announce)
            sha256 = _verified(partial, remote)
        except Unavailable as error:
            refused.append(f"{printable(url)} {error}")
            continue
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = Record(url, now, sha256, remote.version)
        record.write(target)  # before the file: a file without a record would pass for one that someone put there
        try:
            partial.replace(target)
        except OSError as error:
            raise UserError(f"{printable(target)} cannot be written: {error.strerror or error}.") from error
        discard(partial)
        return record
    raise UserError(f"{remote.title} cannot be downloaded: {'; '.join(refused)}. {by_hand(remote, target)}")


def by_hand(remote: Remote, target: Path) -> str:
    """Returns what to do where there is no network, in one sentence."""
    facts = ", ".join([*([f"{remote.size:,} bytes"] if remote.size else []), *remote.hashes])
    known = f" ({facts})" if facts else ""
    return (
        f"Download {printable(remote.file)}{known} from {printable(remote.urls[0])} and put it at {printable(target)}."
    )


def _verified(partial: Path, remote: Remote) -> str:
    """Returns the SHA-256 of a file that has arrived.

    Raises:
      Unavailable: it is another file; it is removed.
    """
    digests = {"sha256": digest_of(partial)}
    for stated in remote.hashes:
        algorithm, digits = stated.split(":")
        digests.setdefault(algorithm, digest_of(partial, algorithm))
        if not digests[algorithm].startswith(digits):
            found = digests[algorithm]
            discard(partial)
            raise Unavailable(f"gives another file: its {algorithm} is {found}, not {digits}")
    return digests["sha256"]


def _check_disk(target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise UserError(f"{printable(target.parent)} has {_megabytes(free)} free; {_megabytes(size)} are needed.")


def _megabytes(size: int | None) -> str:
    return "size: not stated" if size is None else f"{size / 1e6:,.1f} MB"
