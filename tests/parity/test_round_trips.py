"""Whole files of every lineage that no original here writes, with the published names: read, converted, given back."""

import h5py
import numpy as np
import pytest

from inception_jax import weights
from inception_jax.weights.naming.lineages import LINEAGES
from tests.weights import synthetic

pytestmark = pytest.mark.parity


def _written_by(origin):
    return [x.model for x in LINEAGES if x.origin == origin]


def _check(path, its, tensors, left_behind=()):
    """Reads the file and gives the weights back; a background class is not kept, so the outputs here are others."""
    loaded = weights.load(path, its.model, origin=its.origin, unverified=True)
    assert set(loaded.report.dropped) == set(left_behind)
    back = weights.export(loaded, its.origin)
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensor) for name, tensor in tensors.items())


def _tensors(its):
    """Returns all tensors but the gains that these files lack."""
    tensors = synthetic.tensors(its)
    if its.model in ("inception_v4", "inception_resnet_v2"):
        return {name: tensor for name, tensor in tensors.items() if not name.endswith("/gamma")}
    return tensors


@pytest.mark.parametrize("model", _written_by("keras"))
def test_keras(tmp_path, model):
    its = synthetic.lineage("keras", model)
    tensors = _tensors(its)
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        layers = sorted({name.rpartition("/")[0] for name in tensors})  # which is no order of creation
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer)
            names = [name for name in tensors if name.rpartition("/")[0] == layer]
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group[f"{name}:0"] = tensors[name]
    _check(path, its, tensors)


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("model", _written_by("slim"))
def test_slim(tmp_path, model, version):
    tf = pytest.importorskip("tensorflow", reason="it is as large as all other originals together")
    its = synthetic.lineage("slim", model)
    tensors = _tensors(its)
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        for name, array in tensors.items():
            v1.get_variable(name, initializer=array)
        v1.get_variable("global_step", initializer=np.int64(7))
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(write_version=getattr(v1.train.SaverDef, version))
        saver.save(session, str(tmp_path / "model.ckpt"), write_meta_graph=False)
    _check(tmp_path / "model.ckpt", its, tensors, left_behind=("global_step",))
