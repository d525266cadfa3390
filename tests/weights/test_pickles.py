"""What is said of pickles that are not read."""

import pickle

import numpy as np
import pytest

from inception_jax.weights.readers.pickles import advice


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays(tmp_path, protocol):
    path = tmp_path / "inception_v3_weights_fid.pickle"
    path.write_bytes(pickle.dumps({"Conv2d_1a_3x3": {"kernel": np.ones((3, 3, 3, 32), np.float32)}}, protocol))
    assert "pickle of NumPy arrays; nothing in it was run" in advice(path)
    assert "pt_inception-2015-12-05-6726825d.pth" in advice(path)


def test_code_of_stylegan(tmp_path):
    path = tmp_path / "inception-v3-2015-12-05.pkl"
    path.write_bytes(b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n(X\x01\x00\x00\x00atR.")
    assert "of StyleGAN; nothing in it was run" in advice(path)
    assert "inception-2015-12-05.pt" in advice(path).lower()


@pytest.mark.parametrize("content", [b"", b"no pickle at all", pickle.dumps({"a": 1}), pickle.dumps({"numpy": 1})[:9]])
def test_nothing_is_known(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    assert advice(path) == ""
