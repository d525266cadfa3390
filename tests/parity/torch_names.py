"""torchvision's GoogLeNet and ours, name by name and layout by layout."""

import numpy as np
from flax import traverse_util

STEM = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}
AUX = {"aux_4a": "aux1", "aux_4d": "aux2"}
AUX_PARTS = {"rows_1": "conv", "hidden": "fc1", "classifier": "fc2"}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_name(path: tuple[str, ...]) -> str:
    """Returns the state-dict name of the leaf at `path` of our tree, its collection left out."""
    top, *inner, leaf = path
    if top == "classifier":
        names = ["fc"]
    elif top in AUX:
        names = [AUX[top], AUX_PARTS[inner[0]], *(part for part in inner[1:] if part != "linear")]
    elif top in STEM:
        names = [STEM[top], *inner]
    else:
        branch, place = inner[0].split("_")
        names = [top.replace("_", ""), branch, *([] if branch == "branch1" else [place]), *inner[1:]]
    return ".".join([*names, LEAVES[leaf]])


def to_flax(path: tuple[str, ...], tensor: np.ndarray) -> np.ndarray:
    """Returns a torch tensor (a weight or its gradient) in the layout of our leaf at `path`."""
    if path[-1] != "kernel":
        return tensor
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    if path[-2] == "hidden":  # torch flattens C, H, W and we H, W, C
        outputs, inputs = tensor.shape
        return tensor.reshape(outputs, inputs // 16, 4, 4).transpose(2, 3, 1, 0).reshape(inputs, outputs)
    return tensor.T


def variables_from(state: dict[str, np.ndarray], shapes) -> dict:
    """Returns our variables, of these `shapes`, with the tensors of a state dict; every tensor is used exactly once."""
    flat, used = {}, set()
    for (collection, *path), leaf in traverse_util.flatten_dict(dict(shapes)).items():
        name = torch_name(tuple(path))
        used.add(name)
        flat[(collection, *path)] = to_flax(tuple(path), state[name])
        assert flat[(collection, *path)].shape == leaf.shape, name
    assert used == {name for name in state if not name.endswith("num_batches_tracked")}
    return traverse_util.unflatten_dict(flat)
