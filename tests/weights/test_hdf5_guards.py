"""HDF5 that is up to no good, or not whole: nothing outside the file is read, and no more than it holds."""

import zipfile

import h5py
import pytest

from inception_jax.errors import UserError
from inception_jax.weights.readers import read_tensors
from inception_jax.weights.readers.budget import Limits
from tests.weights.small_files import BIAS, KERAS_2, KERAS_3, archive, truncations, write_named, write_numbered

pytestmark = pytest.mark.usefixtures("in_process")


def _external_link(file, elsewhere):
    file["a/kernel"] = h5py.ExternalLink(str(elsewhere), "/secret")


def _soft_link(file, elsewhere):
    file["b"] = BIAS
    file["a/kernel"] = h5py.SoftLink("/b")


def _external_storage(file, elsewhere):
    file.create_dataset("a/kernel", (4,), "f4", external=[(str(elsewhere), 0, 16)])


def _virtual(file, elsewhere):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(elsewhere), "secret", (4,))
    file.create_virtual_dataset("a/kernel", layout)


def _objects(file, elsewhere):
    file.create_dataset("a/kernel", data=["text"], dtype=h5py.string_dtype())


def _huge(file, elsewhere):
    file.create_dataset("a/kernel", (2**40,), "f4", chunks=(1024,), compression="gzip")


def _missing(file, elsewhere):
    pass


def _group(file, elsewhere):
    file.create_group("a/kernel")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_external_link, "/a/kernel is a link"),
        (_soft_link, "/a/kernel is a link"),
        (_external_storage, "/a/kernel is no tensor in this file"),
        (_virtual, "/a/kernel is no tensor in this file"),
        (_objects, "'/a/kernel' has the type object"),
        (_huge, r"'/a/kernel' claims the shape \(1099511627776,\), .* bytes, and the file holds 0"),
        (_missing, "it lacks /a/kernel"),
        (_group, "/a/kernel is no tensor in this file"),
    ],
)
def test_hdf5_that_leads_elsewhere_is_refused(tmp_path, write, words):
    elsewhere = tmp_path / "elsewhere"
    with h5py.File(elsewhere, "w") as file:
        file["secret"] = BIAS
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["a"]
        file.create_group("a").attrs["weight_names"] = ["kernel"]
        write(file, elsewhere)
    with pytest.raises(UserError, match=words):
        read_tensors(path)


def test_a_group_that_is_a_link_is_refused(tmp_path):
    path, elsewhere = tmp_path / "x.weights.h5", tmp_path / "elsewhere"
    with h5py.File(elsewhere, "w") as file:
        write_numbered(file, KERAS_3)
    for link in ("layers", "layers/conv2d"):
        with h5py.File(path, "w") as file:
            file[link] = h5py.ExternalLink(str(elsewhere), link)
        with pytest.raises(UserError, match=f"/{link} is a link"):
            read_tensors(path)


def test_hdf5_that_is_not_of_keras_or_not_whole(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["data"] = BIAS
    with pytest.raises(UserError, match=r"it holds no layers, only \['data'\]"):
        read_tensors(path)
    with h5py.File(path, "w") as file:
        write_named(file, KERAS_2)
    for data in truncations(path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(path)


def test_an_archive_that_lacks_its_weights_or_claims_too_many(tmp_path):
    path = tmp_path / "x.keras"
    archive(path, {}, KERAS_3)
    with pytest.raises(UserError, match=r"its model\.weights\.h5 claims too much: \d+,\d+ bytes, where at most 1,000"):
        read_tensors(path, Limits(bytes=1000))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(UserError, match=r"has no model\.weights\.h5"):
        read_tensors(path)


def test_a_truncated_archive(tmp_path):
    path = tmp_path / "x.keras"
    archive(path, {}, KERAS_3)
    for data in truncations(path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(path)
