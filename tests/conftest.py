"""Guards for every test: eight virtual CPU devices, and no rank promotion. Warnings are errors (pyproject.toml)."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
