"""How convolutions, pools and batch norms are computed: one public module, and an implementation for each platform."""

from typing import TYPE_CHECKING, Any

from inception_jax.lazy import submodule, submodules
from inception_jax.ops.convolution_and_pool import NO_BORDERS as NO_BORDERS
from inception_jax.ops.convolution_and_pool import Borders as Borders
from inception_jax.ops.convolution_and_pool import Geometry as Geometry
from inception_jax.ops.convolution_and_pool import conv as conv
from inception_jax.ops.convolution_and_pool import geometry as geometry
from inception_jax.ops.convolution_and_pool import max_pool as max_pool

if not TYPE_CHECKING:  # a type checker finds modules by itself, and would take any name for one

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *submodules(__name__)})
