"""The server of the demo: limits for uploads, protection from other sites, and shutdown. Needs the extra "demo"."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from inception_jax.errors import printable

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

Result = TypeVar("Result")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:/@\[\]]+)\.?(?::\d*)?", re.IGNORECASE)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a server. Beyond a limit of count or total it answers 503, of size 413, of time 408.

    Attributes:
      bytes_of_one: of the body of a request.
      bytes_of_all: of all bodies in transfer or in work, together.
      uploads: number of these bodies.
      images: number of decoded images in memory, each of up to `transforms.MAX_PIXELS` pixels.
      connections: number of open connections, idle ones included.
      header_seconds: from the first byte of a request to the end of its header.
      body_seconds: from the end of the header to the end of the body.
      idle_seconds: from an answer to the next request on a connection.
      wait_seconds: an image waits for its turn.
      decode_seconds: for decoding an image.
      stop_seconds: for running requests when the server stops.
    """

    bytes_of_one: int = 20_000_000
    bytes_of_all: int = 100_000_000
    uploads: int = 32
    images: int = 4
    connections: int = 128
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 5.0
    wait_seconds: float = 30.0
    decode_seconds: float = 10.0
    stop_seconds: int = 1


class Refused(Exception):
    """A request is refused. The message is for the visitor, `status` is the HTTP status."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Uploads:
    """Reads the bodies of requests within the limits for each and for all together."""

    def __init__(self, limits: Limits):
        self.limits, self.count, self.bytes = limits, 0, 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Yields the body of a request, which counts against the limits until the block ends.

        Raises:
          Refused: the body is too large or too slow, or there are too many.
          ClientDisconnect: starlette's, if the visitor left.
        """
        if self.count >= self.limits.uploads:
            raise Refused(503, f"The demo is busy with {self.count} other images. Try again.")
        self.count += 1
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    await self._read(request, body)
            except TimeoutError as error:
                raise Refused(408, f"This upload took over {self.limits.body_seconds:g} seconds.") from error
            yield bytes(body)
        finally:
            self.count -= 1
            self.bytes -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Reads into `body`; drops a body over the limit, but reads on up to ten times the limit.

        A browser that still sends does not read the answer.

        Raises:
          Refused: the body, or the total of all bodies, is over its limit.
        """
        length = 0
        async for chunk in request.stream():
            length += len(chunk)
            if length > self.limits.bytes_of_one:
                self.bytes -= len(body)
                body.clear()
                if length > 10 * self.limits.bytes_of_one:
                    break
            else:
                if self.bytes + len(chunk) > self.limits.bytes_of_all:
                    raise Refused(503, "The demo is busy with the images of others. Try again.")
                self.bytes += len(chunk)
                body += chunk
        if length > self.limits.bytes_of_one:
            raise Refused(413, f"This file is over {self.limits.bytes_of_one / 1e6:g} MB.")


class OwnHost:
    """Refuses requests for other host names, and requests from pages of other sites.

    After a page of another site was loaded, its name may start to resolve to 127.0.0.1 (DNS rebinding), so that it
    could read our answers. The header "Host" still holds its name.

    Args:
      app: answers the other requests.
      host: the address that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app = app
        self.names = {*LOOPBACK, host.lower()}
        self.every = host in ("", "0.0.0.0", "::")
        if self.every:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return await _error(403, f"{printable(host)!r} is no name of this demo.")(scope, receive, send)
        if scope["method"] not in ("GET", "HEAD") and origin is not None and origin.partition("://")[2] != host:
            return await _error(403, f"Pages of {printable(origin)!r} may not use this demo.")(scope, receive, send)
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:  # by uvicorn, when the time for stopping is over
            await _error(503, "The demo stops.")(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        found = HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").rstrip(".").lower()
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return self.every or address.is_loopback or name in self.names  # DNS rebinding needs a name


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def in_thread(function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
    """Returns the future result of a function that runs in a new thread.

    The thread is a daemon, unlike those of an executor: the program can end before it does.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Result] = loop.create_future()

    def give(set_: Callable[[Any], None], value: object) -> None:
        if not result.done():
            set_(value)

    def work() -> None:
        given: tuple[Callable[[Any], None], object]
        try:
            given = result.set_result, function(*arguments)
        except Exception as error:
            given = result.set_exception, error
        with contextlib.suppress(RuntimeError):  # the demo has stopped
            loop.call_soon_threadsafe(give, *given)

    threading.Thread(target=work, daemon=True).start()
    return result


class Server(uvicorn.Server):
    """Aborts requests that are still being received when it stops; uvicorn would wait for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and cycle.more_body and not cycle.response_complete:
                connection.transport.abort()
        await super().shutdown(sockets)


def server(app: Starlette, limits: Limits) -> Server:
    """Returns a server for an application: `run(sockets=[...])` returns at Ctrl-C, or when `should_exit` is set."""

    class Protocol(H11Protocol):
        """Closes connections over the limit, and those that do not finish the header of a request in time."""

        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._cancel()

        def _watch(self) -> None:
            """Starts or stops the timer of a header; the rest of a refused body counts as a header."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._cancel()
            elif self.timer is None:
                self.timer = self.loop.call_later(limits.header_seconds, self._late)

        def _late(self) -> None:
            self.timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

        def _cancel(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]
        timeout_graceful_shutdown=limits.stop_seconds,
        h11_max_incomplete_event_size=16_384,
    )
    return Server(config)
