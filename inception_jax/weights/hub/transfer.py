"""Gets one file from one address over HTTP. What has arrived is kept: the next attempt continues there.

Beside the partial file stands its state: the address, the size, and the validator (ETag or date) of the file. A server
continues only a file with the same validator (RFC 9110, If-Range); any other is begun anew.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
import urllib3

from inception_jax.errors import UserError, first_line, printable
from inception_jax.progress import MEGABYTES, progress
from inception_jax.version import __version__

BLOCK = 1 << 16
CONNECT, READ = 10.0, 30.0  # seconds to wait for a connection, and for each piece
ATTEMPTS = 5  # in a row, without a new byte
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before the second attempt, doubled before each further one
LARGEST = 4 << 30  # bytes of a file whose size nobody states
BUSY = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may pass

Announce = Callable[[str, int | None, int], None]
"""Called when an address answers: the address, the size of the file (None: not stated), and the bytes kept so far."""


class Unavailable(Exception):
    """An address does not give the file. The message completes a sentence that begins with the address."""


class Interrupted(Exception):
    """The transfer ended early, and a further attempt may continue it."""

    def __init__(self, message: str, pause: float = 0.0):
        super().__init__(message)
        self.pause = pause


@dataclasses.dataclass(frozen=True)
class State:
    """What a partial file is part of."""

    url: str
    validator: str
    total: int | None

    @classmethod
    def read(cls, partial: Path) -> State | None:
        """Returns the state of a partial file; None if there is none, or it is damaged."""
        try:
            return cls(**json.loads(_state_file(partial).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def _state_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def discard(partial: Path) -> None:
    """Removes a partial file and its state."""
    partial.unlink(missing_ok=True)
    _state_file(partial).unlink(missing_ok=True)


def transfer(url: str, partial: Path, size: int | None, headers: Mapping[str, str], announce: Announce) -> None:
    """Downloads a file into `partial`, and continues it if the connection fails.

    Args:
      url: the address of the file.
      partial: where the bytes go; what an earlier call left there is continued if it is of the same file.
      size: of the file in bytes; None: unknown.
      headers: of the request, such as an authorisation; redirections to another host do not get that.
      announce: called before the first byte of the body.

    Raises:
      Unavailable: the address does not give the file.
      UserError: the file cannot be written.
    """
    begun = _length(partial)
    failures = 0
    while True:
        before = _length(partial)
        try:
            return _attempt(url, partial, size, headers, announce)
        except Interrupted as error:
            received = _length(partial)
            failures = 1 if received > before else failures + 1
            if failures >= ATTEMPTS:
                kept = f"; {received:,} bytes are kept, and the next call continues there" if received else ""
                raise Unavailable(f"{error} ({ATTEMPTS} attempts in a row{kept})") from error
            pause = max(PAUSE * 2 ** (failures - 1), error.pause)
        except requests.RequestException as error:
            if _length(partial) <= begun or isinstance(error, requests.exceptions.SSLError):
                raise Unavailable(_words(error)) from error
            failures += 1  # the server was there before
            if failures >= ATTEMPTS:
                raise Unavailable(f"{_words(error)} ({ATTEMPTS} attempts in a row)") from error
            pause = PAUSE * 2 ** (failures - 1)
        time.sleep(min(pause, LONGEST_PAUSE))


def _attempt(url: str, partial: Path, size: int | None, headers: Mapping[str, str], announce: Announce) -> None:
    """Downloads the missing bytes with one request.

    Raises:
      Interrupted: the server is busy, or the connection ended early.
      requests.RequestException: there is no connection.
    """
    state = State.read(partial)
    have = _length(partial) if state and state.url == url and state.validator else 0
    if state and have and have == state.total:
        return
    ask = {"User-Agent": f"inception_jax/{__version__}", **headers, "Accept-Encoding": "identity"}
    if state and have:
        ask |= {"Range": f"bytes={have}-", "If-Range": state.validator}
    with requests.get(url, headers=ask, stream=True, timeout=(CONNECT, READ)) as response:
        start, total = _answer(response, url, partial, have, size)
        announce(url, total, start)
        _receive(response, url, partial, start, total)


def _answer(response: Any, url: str, partial: Path, have: int, size: int | None) -> tuple[int, int | None]:
    """Returns where the body begins in the file, and the size of the file; None: not stated.

    Raises:
      Interrupted: the server is busy, or continues elsewhere than asked.
      Unavailable: the answer is not the file.
    """
    status, header = response.status_code, response.headers
    if status in BUSY:
        wait = header.get("Retry-After", "")
        raise Interrupted(f"answers HTTP {status} {response.reason}", float(wait) if wait.isdecimal() else 0.0)
    if status == 416:
        discard(partial)
        raise Interrupted("has no such range")
    if status not in (200, 206):
        raise Unavailable(f"answers HTTP {status} {response.reason}")
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise Unavailable(f"redirects to an address without encryption, {printable(response.url)}")
    if header.get("Content-Type", "").startswith("text/html"):
        raise Unavailable("answers with a web page in place of the file")
    if header.get("Content-Encoding", "identity") != "identity":
        raise Unavailable(f"encodes the file as {printable(header['Content-Encoding'])}, which was not asked for")
    start, total = 0, header.get("Content-Length")
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", header.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            discard(partial)
            raise Interrupted(f"continues at {printable(header.get('Content-Range'))!r}, not at byte {have:,}")
        start, total = have, match[2]
    total = int(total) if total is not None and total.isdecimal() else None
    if None not in (size, total) and total != size:
        raise Unavailable(f"has {total:,} bytes; the file has {size:,}")
    return start, size if total is None else total


def _receive(response: Any, url: str, partial: Path, start: int, total: int | None) -> None:
    """Writes the body of an answer behind the first `start` bytes of the file.

    Raises:
      Interrupted: it ends early.
      Unavailable: it does not end where it should.
      UserError: the file cannot be written.
    """
    done, most = start, LARGEST if total is None else total
    try:
        if not start:
            discard(partial)
            validator = _validator(response.headers)
            _state_file(partial).write_text(json.dumps(dataclasses.asdict(State(url, validator, total))))
        with partial.open("ab", buffering=0) as file, progress(total, MEGABYTES, start) as advance:
            for block in response.raw.stream(BLOCK, decode_content=False):
                done += len(block)
                if done > most:
                    discard(partial)
                    raise Unavailable(f"sends more than {most:,} bytes")
                file.write(block)
                advance(len(block))
    except urllib3.exceptions.ReadTimeoutError as error:
        raise Interrupted(_words(error)) from error
    except urllib3.exceptions.HTTPError as error:
        if done != total:
            raise Interrupted(_ended(done, total)) from error
    except OSError as error:
        raise UserError(
            f"{printable(partial)} cannot be written: {error.strerror or error}. What it holds is kept."
        ) from error
    if total is not None and done < total:
        raise Interrupted(_ended(done, total))


def _ended(done: int, total: int | None) -> str:
    of = "" if total is None else f" of {total:,}"
    return f"ended after {done:,}{of} bytes"


def _validator(headers: Mapping[str, str]) -> str:
    """Returns what tells If-Range which version a file is: a strong ETag, or a date; "" if the server gives none."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _length(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _words(error: BaseException) -> str:
    """Returns what went wrong with a connection, in a few words: libraries wrap it in several long messages."""
    if isinstance(error, requests.exceptions.SSLError):
        return f"has a certificate that cannot be verified: {_innermost(error)}"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"cannot be reached through the proxy: {_innermost(error)}"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"does not answer within {CONNECT:.0f} s"
    if isinstance(error, requests.exceptions.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return f"sends nothing for {READ:.0f} s"
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return "redirects without end"
    return f"cannot be reached: {_innermost(error)}"


def _innermost(error: BaseException) -> str:
    """Returns the message of the error that caused a chain of others."""
    for _ in range(10):
        inner = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
        found = next((each for each in inner if isinstance(each, BaseException) and each is not error), None)
        if found is None:
            break
        error = found
    return getattr(error, "strerror", None) or first_line(error)
