"""The small network of the tests of inference."""

from tests.inference.conftest import small

__all__ = ["small"]
