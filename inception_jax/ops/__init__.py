"""How convolutions, pools and batch norms are computed: one public module, and an implementation for each platform.

Models use what stands here and `ops.deferred_norm`, nothing else.
"""

from typing import TYPE_CHECKING, Any

from inception_jax.lazy import submodule, submodules
from inception_jax.ops.convolution_and_pool import NO_PADDING as NO_PADDING
from inception_jax.ops.convolution_and_pool import conv as conv
from inception_jax.ops.convolution_and_pool import geometry as geometry
from inception_jax.ops.convolution_and_pool import max_pool as max_pool
from inception_jax.ops.fence import compute_once as compute_once
from inception_jax.ops.implementation import IMPLEMENTATIONS as IMPLEMENTATIONS
from inception_jax.ops.implementation import Implementation as Implementation
from inception_jax.ops.implementation import check_implementation as check_implementation
from inception_jax.ops.pooled_convolution import pool_and_conv as pool_and_conv
from inception_jax.ops.pooled_convolution import pool_and_conv_and_moments as pool_and_conv_and_moments
from inception_jax.ops.pooled_convolution import runs_fused as runs_fused
from inception_jax.ops.xla import Geometry as Geometry
from inception_jax.ops.xla import Padding as Padding

if not TYPE_CHECKING:  # a type checker finds modules by itself, and would take any name for one

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *submodules(__name__)})
