"""A web page on this machine: drop an image, pick a model, see the likeliest classes, and where the network looks.

One page, `demo.html`, which loads nothing from elsewhere, and one address that takes the bytes of an image.
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
from inception_jax.errors import UserError
from inception_jax.inference import cam, heat, localisation
from inception_jax.inference.picture import BOX, overlay
from inception_jax.inference.predictor import Predictor

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

TOP = 5
MAX_BYTES = 20_000_000
SHOWN = 448  # pixels of the longer side of the picture that is sent back
MAX_RATIO = 50  # of the sides: preprocessing resizes the short one, and the long one grows with it
# The page may load and send nothing but from and to where it comes from.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src blob: data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"
)


class Demo:
    """Answers for one image at a time, in a thread of its own, so that memory is bounded and programs compile once.

    Args:
      predictors: by the names that the page shows.

    Raises:
      UserError: one of them has no classifier.
    """

    def __init__(self, predictors: Mapping[str, Predictor]):
        self.predictors = dict(predictors)
        for name, predictor in self.predictors.items():
            if not predictor.info.num_classes:
                raise UserError(f"{name} has no classifier: the demo shows classes.")
        self._thread = concurrent.futures.ThreadPoolExecutor(1)

    def warmup(self) -> None:
        """Compiles all programs ahead."""
        for predictor in self.predictors.values():
            cam.cam(predictor, [Image.new("RGB", (8, 8))])

    async def answer(self, model: str, encoded: bytes) -> dict[str, Any]:
        """Returns what the page shows of an encoded image.

        Raises:
          BrokenImage: it cannot be decoded, has too many pixels, or is too narrow.
          UserError: no such model.
        """
        if model not in self.predictors:
            raise UserError(f"There is no model {model!r}; there is {', '.join(self.predictors)}.")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, self.predictors[model], encoded)

    def _answer(self, predictor: Predictor, encoded: bytes) -> dict[str, Any]:
        image = open_upload(encoded)
        found = cam.cam(predictor, [image])
        classes = [
            {"label": each.label or f"class {each.index}", "probability": each.probability}
            for each in predictor.top(found.logits[0], k=min(TOP, predictor.info.num_classes)).classes
        ]
        seen, box = draw_seen(image, found.maps[0, 0], predictor.transform.box(*image.size))
        return {"width": image.width, "height": image.height, "classes": classes, "seen": seen, "box": box}


def open_upload(encoded: bytes) -> Image.Image:
    """Returns the RGB image of a stranger's bytes.

    Raises:
      BrokenImage: it cannot be decoded, has too many pixels, or is too narrow.
    """
    image = decode(encoded, upright=True)
    if max(image.size) > MAX_RATIO * min(image.size):
        raise BrokenImage(
            f"{image.width} x {image.height} pixels are too narrow: one side is over {MAX_RATIO} times the other"
        )
    return image


def draw_seen(image: Image.Image, cam_map: np.ndarray, read: heat.Box) -> tuple[str, list[int] | None]:
    """Returns a picture of the image under the heat of its likeliest class, and the box of it.

    Args:
      image: as it was uploaded.
      cam_map: the class activation map [H, W].
      read: what the network read of the image, in its pixels.

    Returns:
      The picture as a data: address, and [left, top, right, bottom] in pixels of the image, if anything is hot.
    """
    scale = SHOWN / max(image.size)
    small = image.resize([max(round(side * scale), 1) for side in image.size], Image.Resampling.BILINEAR)
    x, y = (after / before for after, before in zip(small.size, image.size, strict=True))
    shown = heat.on_image(heat.heat(cam_map), (read[0] * x, read[1] * y, read[2] * x, read[3] * y), *small.size)
    box = localisation.largest_box(shown)
    picture = Image.fromarray(np.rint(overlay(small, shown) * 255).astype(np.uint8))
    if box is not None:
        left, top, right, bottom = box
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline=BOX, width=2)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    address = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return address, box and [round(side / by) for side, by in zip(box, (x, y, x, y), strict=True)]


def create_app(demo: Demo) -> Starlette:
    """Returns the web application.

    Raises:
      UserError: the libraries of the extra "demo" are not installed.
    """
    _import_server()
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route

    content = page(list(demo.predictors))

    async def show(request: Request) -> Response:
        return HTMLResponse(content, headers={"Content-Security-Policy": POLICY})

    async def predict(request: Request) -> Response:
        encoded = await _body(request)
        if encoded is None:
            return JSONResponse({"error": f"This file is over {MAX_BYTES // 1_000_000} MB."}, 413)
        try:
            return JSONResponse(await demo.answer(request.query_params.get("model", ""), encoded))
        except BrokenImage as error:
            return JSONResponse({"error": f"This file cannot be shown to the network: {error}."}, 400)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 404)

    return Starlette(routes=[Route("/", show), Route("/predict", predict, methods=["POST"])])


def page(names: list[str]) -> str:
    """Returns the page, for these models."""
    text = importlib.resources.files("inception_jax.inference").joinpath("demo.html").read_text("utf-8")
    options = "".join(f"<option>{html.escape(name)}</option>" for name in names)
    return text.replace("{{options}}", options).replace("{{max_bytes}}", str(MAX_BYTES))


async def _body(request: Request) -> bytes | None:
    """Returns the body of a request, or None if it is over the limit.

    What is over it is read, too, up to ten times the limit, and not kept: a browser hears no answer while it sends.
    """
    body, length = bytearray(), 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= MAX_BYTES:
            body += chunk
        elif length > 10 * MAX_BYTES:
            break
    return bytes(body) if length <= MAX_BYTES else None


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; port 0 takes any that is free.

    Raises:
      UserError: the port is taken or not ours to take, or there is no such host.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"Nothing can listen on {host} port {port}: {error}.") from error


def server(app: Starlette) -> uvicorn.Server:
    """Returns what serves an application: `run(sockets=[...])` returns at Ctrl-C, or when `should_exit` is set."""
    import uvicorn

    return uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))


def _import_server() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"The demo needs starlette and uvicorn (pip install 'inception-jax[demo]'): {error}."
        ) from error
