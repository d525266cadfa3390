"""Which network a file holds, and behind which prefix; what lies beside it. By names: tensors are small stand-ins."""

import numpy as np
import pytest

from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.weights.convert import convert
from inception_jax.weights.readers import Content, Statement
from inception_jax.weights.recognition import find_lineage, recognise
from tests.weights import synthetic
from tests.weights.synthetic import GOOGLENET

ONE = np.ones(1, np.float32)


@pytest.fixture(scope="module")
def names():
    return list(synthetic.tensors(GOOGLENET, 3, aux=False))


def recognised(tensors, statement=None, key=None):
    return recognise(tensors, statement or Statement(), None, None, key, "x.pth")


def behind(prefix, names, value=ONE):
    return {prefix + name: value for name in names}


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone.", "module._orig_mod.model.net.", "a.b.c."])
def test_any_prefix_is_removed(names, prefix):
    found = recognised(behind(prefix, names) | {"n_averaged": ONE})
    assert found.lineage is GOOGLENET
    assert set(found.tensors) == {*names, "n_averaged"}
    assert found.left_out == ()
    assert found.notes == ((f"the names of the network begin with {prefix!r}, which is removed",) if prefix else ())


def test_what_lies_in_other_dictionaries_is_left_out(names):
    statement = Statement(containers=("state_dict", "extra"), left_out=("epoch", "optimizer"))
    tensors = behind("state_dict.module.", names) | {"state_dict.head.weight": ONE, "extra.scale": ONE}
    found = recognised(tensors, statement)
    assert set(found.tensors) == {*names, "head.weight"}
    assert found.left_out == ("epoch", "optimizer", "extra.scale")
    assert "1 tensors elsewhere in the file are left out" in found.notes


def test_a_name_beside_the_network_and_in_it(names):
    tensors = behind("state_dict.model.", names) | {"state_dict.fc.bias": 2 * ONE}
    found = recognised(tensors, Statement(containers=("state_dict",)))
    assert (found.tensors["fc.bias"], found.tensors["state_dict.fc.bias"]) == (1, 2)


def test_several_networks_need_a_key(names):
    statement = Statement(containers=("model", "ema.module"))
    tensors = behind("model.", names) | behind("ema.module.", names, 2 * ONE)
    with pytest.raises(
        UserError, match=r"x.pth holds 2 networks, under model, ema.module: .* key='model' \(--key model\)"
    ):
        recognised(tensors, statement)
    for key, value in (("model", 1), ("ema", 2), ("ema.module", 2)):
        found = recognised(tensors, statement, key)
        assert found.tensors["conv1.conv.weight"] == value
        assert len(found.left_out) == len(names)
    for key in ("ema.", "emA", "x", ""):
        with pytest.raises(UserError, match=rf"x.pth has nothing under key '{key}'; it has model, ema.module"):
            recognised(tensors, statement, key)
    both = behind("student.", names) | behind("teacher.", names)  # in one state dict
    with pytest.raises(UserError, match="holds 2 networks, under student, teacher"):
        recognised(both)
    assert len(recognised(both, key="teacher").tensors) == len(names)


def test_a_small_network_whose_names_are_those_of_a_large_one():
    """Keras numbers its layers: the names of InceptionV3 are some of those of InceptionResNetV2."""
    v3, resnet = (_names_of_keras(model) for model in ("inception_v3_tf", "inception_resnet_v2"))
    assert v3.keys() < resnet.keys() | {"predictions/kernel"}
    more = {"conv2d_95/kernel": ONE, "batch_normalization_95/beta": ONE, "dense/kernel": ONE}
    assert find_lineage(v3 | more, None, None).model == "inception_v3_tf"
    assert find_lineage(resnet, None, "keras").model == "inception_resnet_v2"


def _names_of_keras(model):
    its = synthetic.lineage("keras", model)
    units = [unit for row in its.naming(synthetic.model_of(its, 3)).values() for unit in row]
    layers = dict.fromkeys((f"{unit.layer}/kernel" for unit in units), ONE)
    return layers | dict.fromkeys((f"{unit.norm}/beta" for unit in units if unit.norm), ONE)


# ---- Conversion ----------------------------------------------------------------------------------------------------


def linear(name, inputs, outputs):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((outputs, inputs), dtype=np.float32)
    return {f"{name}.weight": kernel, f"{name}.bias": rng.standard_normal(outputs, dtype=np.float32)}


@pytest.fixture(scope="module")
def body(tensors):
    """GoogLeNet without classifier and auxiliary heads."""
    return {name: each for name, each in tensors.items() if not name.startswith(("fc.", "aux"))}


def test_a_chain_becomes_rows(body):
    head = linear("fc.0", 1024, 6) | linear("fc.3", 6, 4)
    converted = convert(body | head, GOOGLENET, source="x.pth")
    assert (converted.info.num_classes, converted.info.head.rows[0].features) == (4, 6)
    params = converted.variables["params"]
    np.testing.assert_array_equal(params["head"]["rows_0"]["conv"]["kernel"][0, 0], head["fc.0.weight"].T)
    np.testing.assert_array_equal(params["classifier"]["linear"]["kernel"], head["fc.3.weight"].T)
    assert "ReLU between its linear layers is assumed" in str(converted.report)


def test_a_replaced_classifier_beside_auxiliary_heads(tensors, monkeypatch):
    new = tensors | linear("fc", 1024, 10)
    monkeypatch.setattr("inception_jax.weights.loading.read_content", lambda source: Content(dict(new), Statement()))

    class Live:
        layers = ()

    loaded = weights.load(Live())
    assert (loaded.info.num_classes, loaded.info.aux) == (10, True)
    assert len(loaded.report.reinitialised) == 4
    assert {"aux1.fc2.weight", "aux2.fc2.bias"} <= set(loaded.report.dropped)
    assert "the classifiers of aux_4a and aux_4d have other outputs than the 10 here" in str(loaded.report)
    assert loaded.variables["params"]["aux_4a"]["hidden"]["kernel"].shape == (2048, 1024)
    without = convert(new, GOOGLENET, aux=False)
    assert not without.info.aux
    assert "aux1.conv.conv.weight" in without.report.dropped


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (linear("top", 4096, 3), r"but its head, top \(4096 -> 3\), cannot be taken: the shapes of its layers"),
        (
            {"aux1.conv.conv.weight": ONE},
            r"but its classifier, fc, is missing beside its auxiliary heads\. num_classes=0",
        ),
    ],
)
def test_without_a_head_that_can_be_taken(body, change, words):
    with pytest.raises(UserError, match=rf"x.pth is googlenet_torchvision of torchvision, {words}") as caught:
        convert(body | change, GOOGLENET, source="x.pth")
    assert "\n" not in str(caught.value)
    converted = convert(body | change, GOOGLENET, source="x.pth", new_classifier=True)
    assert (converted.info.num_classes, converted.info.aux) == (0, False)
    assert set(converted.report.dropped) == set(change)
    assert "it is left out" in str(converted.report)


@pytest.mark.parametrize("new_classifier", [False, True])
def test_the_body_stays_strict(body, new_classifier):
    """What is missing, or is inside its modules and not ours, is an error, whatever becomes of the head."""
    head = linear("fc", 1024, 3)
    for name, words in {
        "conv3.conv.weight": r"1 missing \(conv3.conv.weight\)\.$",
        "inception4a.branch1.bn.bias": r"1 missing \(inception4a.branch1.bn.bias\)\.$",
    }.items():
        with pytest.raises(UserError, match=words):
            convert({n: t for n, t in body.items() if n != name} | head, GOOGLENET, new_classifier=new_classifier)
    inside = linear("inception3a.se.fc", 1024, 1024)  # as a row of the head it would fit
    with pytest.raises(UserError, match=r"2 left over \(inception3a.se.fc.weight, inception3a.se.fc.bias\)"):
        convert(body | head | inside, GOOGLENET, new_classifier=new_classifier)


def test_metrics_and_counters_are_left_out(body):
    beside = {"criterion.weight": ONE, "model.val_acc.total": ONE, "n_averaged": ONE, "conv1.total_ops": ONE}
    converted = convert(body | linear("fc", 1024, 3) | beside, GOOGLENET)
    assert set(converted.report.dropped) == set(beside)
