"""The classes of ImageNet, and whose weights carry their names."""

from inception_jax import imagenet, weights
from inception_jax.weights.convert import convert
from tests.weights import synthetic


def test_classes():
    names = imagenet.class_names()
    assert len(names) == len(set(names)) == 1000
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 999: "toilet tissue"}
    assert {i: names[i] for i in known} == known
    assert list(imagenet.classes()) == sorted(imagenet.classes())  # the order of ILSVRC
    assert imagenet.classes()["n02099601"] == "golden retriever"
    assert imagenet.readable(["n01443537", "n01440764"]) == ("goldfish", "tench")
    assert imagenet.readable(["n01443537", "cat"]) == ("n01443537", "cat")


def test_converted_sets_carry_the_names_of_their_classes():
    its = synthetic.lineage("slim", "inception_v1_slim")
    tensors = synthetic.tensors(its, outputs=1001, aux=False)
    loaded = convert(tensors, its)
    assert loaded.info.class_names == imagenet.class_names()
    assert "the classes are assumed to be those of ImageNet" in loaded.report.notes
    assert weights.adapt(loaded, aux=False).info.class_names == imagenet.class_names()
    assert weights.adapt(loaded, num_classes=0).info.class_names == ()
    assert convert(tensors, its, label_offset=0).info.class_names == ()
