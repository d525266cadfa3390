"""The start of a model from the weights of another."""

import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.models import zoo
from inception_jax.training.finetune import check_frozen
from inception_jax.weights import adapt, transfer
from tests.weights.test_files import tiny


@pytest.fixture(scope="module")
def googlenet():
    return tiny("googlenet", class_names=tuple("0123456789"))


@pytest.fixture(scope="module")
def started(googlenet):
    return transfer(googlenet, "googlenet_gap")


def test_rows_up_to_4e_and_heads_are_those_of_googlenet(googlenet, started):
    new, old = started.flat(), googlenet.flat()
    drawn = {name for name in new if name.split("/")[1] in ("CAM_conv", "classifier")}
    assert sorted(drawn) == list(started.report.reinitialised)
    assert len(drawn) == 4
    for name in new.keys() - drawn:
        np.testing.assert_array_equal(new[name], old[name])
    assert {"params/aux_4d/hidden/kernel", "params/inception_4e/branch3_1/conv/bias"} <= new.keys()
    gone = {name.split("/")[1] for name in started.report.dropped}
    assert gone == {"inception_5a", "inception_5b", "classifier"}
    assert (started.info.model, started.info.class_names) == ("googlenet_gap", googlenet.info.class_names)
    assert started.info.numerics == googlenet.info.numerics
    assert "weights of googlenet start googlenet_gap" in str(started.report)
    assert np.std(new["params/CAM_conv/conv/kernel"]) > 0


def test_a_start_can_be_adapted(started):
    fewer = adapt(started, 3, aux=False)
    assert set(fewer.report.reinitialised) == set(started.report.reinitialised)
    np.testing.assert_array_equal(
        fewer.flat()["params/CAM_conv/conv/kernel"], started.flat()["params/CAM_conv/conv/kernel"]
    )


def test_what_is_drawn_is_not_frozen(started):
    check_frozen(started, zoo.create_model("googlenet_gap", freeze="up_to:4e"))
    with pytest.raises(UserError, match="keeps CAM_conv, which the weights of a test do not have"):
        check_frozen(started, zoo.create_model("googlenet_gap", freeze="backbone"))


@pytest.mark.parametrize(
    ("name", "says"), [("googlenet_naive", "begins as no other model"), ("googlenet_gap", "begins as googlenet")]
)
def test_weights_of_other_models_are_refused(name, says):
    with pytest.raises(UserError, match=f"Weights of googlenet_cifar cannot start {name}, which {says}"):
        transfer(tiny(), name)
