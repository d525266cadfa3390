"""Comparison of graphs with tables, and batch norms that exporters folded. What runs graphs is in tests/parity."""

import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.models import spec, zoo
from inception_jax.models.steps import steps
from inception_jax.weights import graphs
from inception_jax.weights.naming.lineages import LINEAGES
from inception_jax.weights.readers.statement import Operator, Statement

KNOWN = [each.model for each in LINEAGES if each.origin == graphs.ORIGIN]


def statement_of(model, size=None, epsilon=None):
    """Returns what a file states whose graph is a model; its padding is that of the size."""
    usual = zoo.model_card(model.name_in_zoo).preprocess.size
    size = size or (usual, usual)
    operators = []
    for step in steps(model.table, model.numerics, 3, size):
        high = [
            max((n - 1) * s + k - m - low, 0)
            for n, s, k, m, low in zip(step.makes, step.strides, step.shape[-2:], step.reads, step.first, strict=False)
        ]
        operators.append(
            Operator(step.kind, step.shape, step.strides, (*step.first, *high) or (0,) * 4, values=step.values)
        )
    return Statement(operators=tuple(operators), input_size=size, epsilon=epsilon)


@pytest.mark.parametrize("name", KNOWN)
def test_every_graph_is_known_from_all_others(name):
    assert graphs.find_model(statement_of(zoo.create_model(name)), None, "x").name_in_zoo == name


def test_sizes_by_hand():
    """Of the operators of a table: kernels, what they read and make, and padding."""
    model = zoo.create_model("googlenet")
    first, relu, pool, lrn, *_ = steps(model.table, model.numerics, 3, (224, 200))
    assert first == ("conv", (64, 3, 7, 7), (2, 2), (224, 200), (3, 3), (112, 100), ())
    assert (relu.kind, lrn.values) == ("relu", (5, 1e-4, 0.75, 1.0))
    assert pool[1:6] == ((3, 3), (2, 2), (112, 100), (0, 0), (56, 50))
    slim = zoo.create_model("inception_v1_slim")
    assert next(steps(slim.table, slim.numerics, 3, (224, 224))).first == (2, 2)


def test_numerics_of_a_graph():
    model = zoo.create_model("bn_inception")
    other = model.clone(numerics=model.numerics._replace(count_padding=False, pool_same="floor"))
    found = graphs.find_model(statement_of(other), None, "x")
    assert (found.name_in_zoo, found.numerics) == ("bn_inception", other.numerics)


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (0, {"strides": (1, 1)}, r"operator 1 of its graph is conv 64x3x7x7/1 from \(224, 224\) to \(223, 223\)"),
        (0, {"shape": (64, 3, 7, 6)}, "operator 1 of its graph is conv 64x3x7x6"),
        (1, {"kind": "add"}, "operator 2 of its graph is add, where googlenet has relu"),
        (3, {"values": (5.0, 1.0, 0.75, 1.0)}, "operator 4 of its graph is lrn 5.0x1.0x0.75x1.0"),
    ],
)
def test_the_first_difference_is_named(place, change, words):
    statement = statement_of(zoo.create_model("googlenet"))
    operators = list(statement.operators)
    operators[place] = operators[place]._replace(**change)
    with pytest.raises(UserError, match=words) as caught:
        graphs.find_model(Statement(operators=tuple(operators), input_size=(224, 224)), "googlenet", "x.onnx")
    assert str(caught.value).startswith("x.onnx is not googlenet: ")


def test_graphs_that_end_early_or_late():
    statement = statement_of(zoo.create_model("googlenet"))
    pool = Operator("avg", (7, 7), values=(0.0,))
    graphs.find_model(Statement(operators=(*statement.operators, pool), input_size=(224, 224)), None, "x")
    with pytest.raises(UserError, match="operator 129 of its graph is missing, where googlenet has relu"):
        graphs.find_model(Statement(operators=statement.operators[:-1], input_size=(224, 224)), "googlenet", "x")
    with pytest.raises(UserError, match="is relu, where googlenet ends"):
        graphs.find_model(Statement(operators=(*statement.operators, Operator("relu"))), "googlenet", "x")
    with pytest.raises(UserError, match="graphs of googlenet_gap are not known; known: googlenet, "):
        graphs.find_model(statement, "googlenet_gap", "x")


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_a_folded_norm_leaves_what_it_reads(epsilon):
    """(x - 0) / sqrt(1 - epsilon + epsilon) + bias is x + bias, in float32."""
    lineage = next(each for each in LINEAGES if (each.origin, each.model) == (graphs.ORIGIN, "googlenet_torchvision"))
    model = zoo.create_model(lineage.model, 0, numerics=spec.TORCH._replace(norm=spec.BatchNorm(epsilon)))
    bias = np.arange(64, dtype=np.float32)
    found, notes = graphs.unfold({"conv_1.weight": np.ones((64, 3, 7, 7)), "conv_1.bias": bias}, lineage, model)
    assert "conv_1.bias" not in found
    np.testing.assert_array_equal(found["bn_1.bias"], bias)
    assert (found["bn_1.running_var"] + np.float32(epsilon) == 1).all()
    assert (found["bn_1.weight"] == 1).all()
    assert (found["bn_1.running_mean"] == 0).all()
    assert notes == ("57 batch norms are folded into convolutions in the file; those here have mean 0 and variance 1",)


def test_a_bias_in_front_of_a_norm_is_taken_from_its_mean():
    lineage = next(each for each in LINEAGES if (each.origin, each.model) == (graphs.ORIGIN, "googlenet_torchvision"))
    norm = {f"bn_1.{leaf}": np.full(64, 5, np.float32) for leaf in ("weight", "bias", "running_mean", "running_var")}
    tensors = norm | {"conv_1.bias": np.full(64, 2, np.float32)}
    found, _ = graphs.unfold(tensors, lineage, zoo.create_model(lineage.model, 0))
    assert (found["bn_1.running_mean"] == 3).all()
    assert (found["bn_1.running_var"] == 5).all()
    assert "conv_1.bias" not in found


@pytest.mark.parametrize(
    ("name", "row", "kinds"),
    [
        ("inception_resnet_v2", "block8_1", "conv relu conv relu conv relu conv relu conv scale add relu"),
        ("inception_resnet_v2", "Block8", "conv relu conv relu conv relu conv relu conv add"),
        ("xception", "block3", "relu depthwise conv relu depthwise conv max conv add"),
        ("inception_v3", "Mixed_7c", "conv relu " * 8 + "avg conv relu"),
    ],
)
def test_operators_of_a_row_by_hand(name, row, kinds):
    model = zoo.create_model(name)
    found = steps({row: model.table[row]}, model.numerics, 64, (17, 17))
    assert " ".join(step.kind for step in found) == kinds
