"""What cuts an evaluation image is chosen by the geometry of the card."""

import pytest

from inception_jax.data.transforms import Evaluate, EvaluateBox, eval_transform
from inception_jax.models.zoo import model_card


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("googlenet_torchvision", Evaluate(224, 256)),
        ("inception_v4", Evaluate(299, 341, "bicubic")),
        ("inception_v1_slim", EvaluateBox(224, 0.875)),
        ("inception_v3_tf", EvaluateBox(299, 0.875)),
        ("inception_v3_fid", EvaluateBox(299, 1.0)),
    ],
)
def test_geometry_of_a_card(name, transform):
    assert eval_transform(model_card(name).preprocess) == transform
