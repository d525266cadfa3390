"""The files in which the network of the FID is published besides PyTorch's, made of the state of pytorch-fid's network.

The names are written out here once more, because those of the package are what is tested.
"""

import numpy as np

from tests.weights.graph_def import constant, convolution, node

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
MODULES = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
UNITS = {
    "branch1x1": "conv",
    "branch3x3": "conv",  # of 6a
    "branch5x5_1": "tower/conv",
    "branch5x5_2": "tower/conv_1",
    "branch7x7_1": "tower/conv",
    "branch7x7_2": "tower/conv_1",
    "branch7x7_3": "tower/conv_2",
    "branch3x3_1": "tower/conv",
    "branch3x3_2": "tower/conv_1",
    "branch3x3_2a": "tower/mixed/conv",
    "branch3x3_2b": "tower/mixed/conv_1",
    "branch3x3dbl_1": "tower_1/conv",
    "branch3x3dbl_2": "tower_1/conv_1",
    "branch3x3dbl_3": "tower_1/conv_2",
    "branch3x3dbl_3a": "tower_1/mixed/conv",
    "branch3x3dbl_3b": "tower_1/mixed/conv_1",
    **{f"branch7x7dbl_{i + 1}": f"tower_1/conv_{i}" if i else "tower_1/conv" for i in range(5)},
    **{f"branch7x7x3_{i + 1}": f"tower_1/conv_{i}" if i else "tower_1/conv" for i in range(4)},
    "branch_pool": "tower_2/conv",
}


def name_in_graph(unit):
    """Returns the name in the graph of 2015 of a unit of pytorch-fid, such as "Mixed_5b.branch5x5_1"."""
    if unit in STEM:
        return f"conv_{STEM.index(unit)}" if STEM.index(unit) else "conv"
    module, _, branch = unit.partition(".")
    number = MODULES.index(module.removeprefix("Mixed_"))
    inner = UNITS[branch]
    if module == "Mixed_6a":  # whose second branch is the first tower
        inner = inner.replace("tower_1", "tower")
    return f"mixed_{number}/{inner}" if number else f"mixed/{inner}"


def units(state):
    """Yields name, kernel, bias, mean and variance of each convolution of a state dict; its scales must be one."""
    for key, kernel in state.items():
        if key.endswith(".conv.weight"):
            unit = key.removesuffix(".conv.weight")
            assert (state[f"{unit}.bn.weight"] == 1).all()
            yield unit, kernel, *(state[f"{unit}.bn.{leaf}"] for leaf in ("bias", "running_mean", "running_var"))


def graph_def(state):
    """Returns the bytes of the graph of 2015: its batch norms have scales that they do not use."""
    data = node("DecodeJpeg/contents", "Placeholder") + constant("Sub/y", np.float32(128))
    for unit, kernel, bias, mean, variance in units(state):
        unused = np.full_like(bias, 3)
        data += convolution(name_in_graph(unit), kernel.transpose(2, 3, 1, 0).copy(), bias, mean, variance, unused)
    data += constant("pool_3/_reshape/shape", np.array([-1, 2048], np.int32))
    return (
        data + constant("softmax/weights", state["fc.weight"].T.copy()) + constant("softmax/biases", state["fc.bias"])
    )


def scripted(torch, state):
    """Returns the module of StyleGAN2-ADA as far as its tensors and their names go, as TorchScript."""

    class Convolution(torch.nn.Module):
        def __init__(self, kernel, bias, mean, variance):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(kernel.copy()))
            for leaf, array in (("beta", bias), ("mean", mean), ("var", variance)):
                self.register_buffer(leaf, torch.from_numpy(array.copy()))

        def forward(self, x):
            return x * self.weight.sum() + self.beta.sum() + self.mean.sum() + self.var.sum()

    class Container(torch.nn.Module):
        def forward(self, x):
            return x

    net = Container()
    net.output = torch.nn.Linear(2048, 1008)
    net.output.load_state_dict({leaf: torch.from_numpy(state[f"fc.{leaf}"]) for leaf in ("weight", "bias")})
    for unit, *arrays in units(state):
        block, *path = name_in_graph(unit).split("/")
        path = ["_".join(path)] if path and block in ("mixed_9", "mixed_10") else path
        parent = net
        for part in ("layers", block, *path)[:-1]:
            if not hasattr(parent, part):
                parent.add_module(part, Container())
            parent = getattr(parent, part)
        parent.add_module(("layers", block, *path)[-1], Convolution(*arrays))
    return torch.jit.script(net)
