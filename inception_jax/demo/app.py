"""A local web page: drop an image, pick a model, see the likeliest classes and the heatmap of the first one.

The server has one page, `page.html`, which loads nothing from other servers, and one route that takes an image.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import html
import importlib.resources
import io
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from inception_jax.data.transforms import BrokenImage, decode
from inception_jax.errors import UserError, printable
from inception_jax.explain import cam, heatmaps, localisation
from inception_jax.explain.plots import BOX, overlay
from inception_jax.inference.predictor import Predictor

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from inception_jax.demo.serving import Limits, Server

TOP = 5
SHOWN = 448  # pixels of the longer side of the image in the answer
MAX_RATIO = 50  # of long to short side: preprocessing may enlarge the short side, and the long one with it
# The page may connect only to its own server.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src blob: data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"
)


class Demo:
    """Answers requests: decodes a few images at a time, and runs the network for one at a time, in a single thread.

    Args:
      predictors: by the names that the page shows.
      limits: of memory and time; None: the defaults.

    Raises:
      UserError: one of them has no classifier, or the libraries of the extra "demo" are not installed.
    """

    def __init__(self, predictors: Mapping[str, Predictor], limits: Limits | None = None):
        _import_server()
        from inception_jax.demo.serving import Limits

        self.predictors, self.limits = dict(predictors), limits or Limits()
        for name, predictor in self.predictors.items():
            if not predictor.info.num_classes:
                raise UserError(f"{name} has no classifier: the demo shows classes.")
            if predictor.info.in_channels not in (1, 3):
                raise UserError(f"{name} reads images of {predictor.info.in_channels} channels; the demo gets RGB.")
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._free = asyncio.Semaphore(self.limits.images)

    def warmup(self) -> None:
        """Compiles all programs, so that no request waits for it."""
        for predictor in self.predictors.values():
            explain(predictor, Image.new("RGB", (8, 8)))

    async def answer(self, model: str, encoded: bytes) -> dict[str, Any]:
        """Returns the answer for an encoded image, as JSON types.

        A thread cannot be stopped. An image that takes too long to decode counts against the limit until it is decoded,
        but the visitor gets an answer at once.

        Returns:
          width, height: of the image in pixels.
          classes: label and probability of the likeliest classes.
          seen: the image with the heatmap of the likeliest class, as a data: URL.
          box: [left, top, right, bottom] of that class in pixels of the image, or None.

        Raises:
          BrokenImage: the image cannot be decoded in time, has too many pixels, or is too narrow.
          Refused: the server is too busy to start within the time limit.
          UserError: there is no such model.
        """
        from inception_jax.demo.serving import Refused, in_thread

        if model not in self.predictors:
            raise UserError(f"There is no model {printable(model)!r}; there is {', '.join(self.predictors)}.")
        try:
            async with asyncio.timeout(self.limits.wait_seconds):
                await self._free.acquire()
        except TimeoutError as error:
            raise Refused(503, "The demo is busy with the images of others. Try again.") from error
        decoding = in_thread(open_upload, encoded)
        try:
            finished, _ = await asyncio.wait({decoding}, timeout=self.limits.decode_seconds)
            if not finished:
                raise BrokenImage(f"it takes over {self.limits.decode_seconds:g} seconds to decode")
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._answer, self.predictors[model], decoding.result())
        finally:
            if decoding.done():
                self._free.release()
            else:
                decoding.add_done_callback(self._decoded_too_late)

    def _decoded_too_late(self, decoding: asyncio.Future[Image.Image]) -> None:
        decoding.exception()  # marks it as retrieved
        self._free.release()

    def _answer(self, predictor: Predictor, image: Image.Image) -> dict[str, Any]:
        found = explain(predictor, image)
        classes = [
            {"label": each.label or f"class {each.index}", "probability": each.probability}
            for each in predictor.top(found.logits[0], k=min(TOP, predictor.info.num_classes)).classes
        ]
        seen, box = draw_seen(image, found.maps[0, 0], predictor.transform.box(*image.size))
        return {"width": image.width, "height": image.height, "classes": classes, "seen": seen, "box": box}


def explain(predictor: Predictor, image: Image.Image) -> cam.Explanation:
    """Returns the class activation map of the likeliest class, or Grad-CAM if layers before the classifier rule it out.

    Where there are both, they are the same up to their scale.
    """
    return (cam.grad_cam if predictor.model.head.rows else cam.cam)(predictor, [image])


def open_upload(encoded: bytes) -> Image.Image:
    """Returns the RGB image of uploaded bytes, turned by its EXIF orientation.

    Raises:
      BrokenImage: the bytes cannot be decoded, or the image has too many pixels or is too narrow.
    """
    image = decode(encoded, upright=True)
    if max(image.size) > MAX_RATIO * min(image.size):
        raise BrokenImage(
            f"{image.width} x {image.height} pixels are too narrow: one side is over {MAX_RATIO} times the other"
        )
    return image


def draw_seen(image: Image.Image, cam_map: np.ndarray, read: heatmaps.Box) -> tuple[str, list[int] | None]:
    """Returns an image under the heatmap of a class, and the box of the class.

    Args:
      image: as it was uploaded.
      cam_map: the class activation map [H, W].
      read: the part of the image that the network read, in its pixels.

    Returns:
      A JPEG as a data: URL, and [left, top, right, bottom] in pixels of the image; None if no pixel is positive.
    """
    scale = SHOWN / max(image.size)
    small = image.resize([max(round(side * scale), 1) for side in image.size], Image.Resampling.BILINEAR)
    x, y = (after / before for after, before in zip(small.size, image.size, strict=True))
    shown = heatmaps.on_image(heatmaps.heat(cam_map), (read[0] * x, read[1] * y, read[2] * x, read[3] * y), *small.size)
    box = localisation.largest_box(shown)
    drawn = Image.fromarray(np.rint(overlay(small, shown) * 255).astype(np.uint8))
    if box is not None:
        left, top, right, bottom = box
        ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), outline=BOX, width=2)
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=90)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return url, box and [round(side / by) for side, by in zip(box, (x, y, x, y), strict=True)]


def create_app(demo: Demo, host: str = "127.0.0.1") -> Starlette:
    """Returns the web application.

    Args:
      demo: answers the requests.
      host: the address that the server listens on; requests for other names are refused (see `serving.OwnHost`).
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    from inception_jax.demo.serving import OwnHost, Refused, Uploads

    content = page(list(demo.predictors), demo.limits.bytes_of_one)
    uploads = Uploads(demo.limits)

    async def show(request: Request) -> Response:
        return HTMLResponse(content, headers={"Content-Security-Policy": POLICY})

    async def predict(request: Request) -> Response:
        try:
            async with uploads.body(request) as encoded:
                return JSONResponse(await demo.answer(request.query_params.get("model", ""), encoded))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads the answer
        except Refused as refused:
            # The rest of a body that takes too long is not read.
            close = {"Connection": "close"} if refused.status == 408 else {}
            return JSONResponse({"error": str(refused)}, refused.status, close)
        except BrokenImage as error:
            return JSONResponse({"error": f"This file cannot be shown to the network: {error}."}, 400)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 404)

    routes = [Route("/", show), Route("/predict", predict, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(OwnHost, host=host)])


def page(names: list[str], max_bytes: int) -> str:
    """Returns the HTML page for models with these names and uploads of up to `max_bytes`."""
    text = importlib.resources.files("inception_jax.demo").joinpath("page.html").read_text("utf-8")
    options = "".join(f"<option>{html.escape(name)}</option>" for name in names)
    return text.replace("{{options}}", options).replace("{{max_bytes}}", str(max_bytes))


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; port 0 stands for any free port.

    Raises:
      UserError: the port is in use or not permitted, or the host does not exist.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"Nothing can listen on {host} port {port}: {error}.") from error


def server(app: Starlette, limits: Limits | None = None) -> Server:
    """Returns a server for an application: `run(sockets=[...])` returns at Ctrl-C, or when `should_exit` is set."""
    from inception_jax.demo import serving

    return serving.server(app, limits or serving.Limits())


def _import_server() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"The demo needs starlette and uvicorn (pip install 'inception-jax[demo]'): {error}."
        ) from error
