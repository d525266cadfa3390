"""The PyTorch original of a model, eager and compiled, with the settings that PyTorch recommends for speed."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.bench import case as cases
from inception_jax.bench import originals
from inception_jax.bench.case import Case
from inception_jax.bench.engines import best, ceiling_sizes, take
from inception_jax.bench.timing import Clock, timed, turn
from inception_jax.errors import UserError
from inception_jax.models.inputs import normalise
from inception_jax.models.zoo import model_card


class TorchEngine:
    """A torch.nn.Module with the weights of the case; it gets normalised images, unlike the jax engine.

    In bfloat16, inference converts the whole network, and training runs under autocast with parameters in float32.
    """

    def __init__(self, name: str, case: Case, folder: Path):
        self.torch = torch = originals.require("torch")
        self.name, self.case, self.calls = name, case, 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._set_precision()
        if case.threads:
            torch.set_num_threads(case.threads)
        net = originals.torch_original(case.model, case.num_classes, case.heads)
        load = originals.require("safetensors.torch").load_file
        net.load_state_dict(load(folder / "torch.safetensors"))
        half = case.dtype == "bfloat16" and case.mode == "inference"
        layout = torch.contiguous_format if name == "torch" else torch.channels_last
        torch.backends.cudnn.benchmark = name != "torch"
        self.dtype = torch.bfloat16 if half else torch.float32
        self.net = net.train(case.mode == "train").to(self.device, self.dtype, memory_format=layout)
        self.run = self._compiled(self.net)
        self.images, self.labels = self._batches(layout)
        self.loss: Any = None
        self.aux_weight = max((head.weight for head in model_card(case.model).aux_heads.values()), default=0.0)
        settings = {"lr": cases.LEARNING_RATE, "momentum": cases.MOMENTUM}
        self.optimizer = torch.optim.SGD(self.net.parameters(), **settings) if case.mode == "train" else None

    def build(self, clock: Clock = time.perf_counter) -> dict[str, float]:
        return {"first_call": timed(self.call, clock)[1]}

    def call(self) -> None:
        images, labels = take(self.images, self.calls), take(self.labels, self.calls)
        if self.case.mode == "train":
            self._step(images, labels)
        else:
            self._logits(images)
        self._wait()
        self.calls += 1

    def outputs(self) -> dict[str, Any]:
        """Returns logits, or the loss and variables of the first step; in training call it once, after `build`."""
        if self.case.mode == "inference":
            return {"logits": self._logits(self.images[0]).float().cpu().numpy()}
        if self.calls != 1:
            raise AssertionError("outputs are those of the first step")
        state = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.net.state_dict().items()}
        return {"loss": float(self.loss.detach()), "variables": state}

    def ceilings(self, clock: Clock = time.perf_counter) -> dict[str, float]:
        torch = self.torch
        dtype = torch.bfloat16 if self.case.dtype == "bfloat16" else torch.float32
        rows, size = ceiling_sizes(self.device.type == "cpu")
        a, b, out = (torch.randn(rows, rows, device=self.device).to(dtype) for _ in range(3))
        array = torch.ones(size // a.element_size(), dtype=dtype, device=self.device)

        def multiply() -> None:
            torch.matmul(a, b, out=out)
            self._wait()

        def rescale() -> None:
            array.mul_(1.0)
            self._wait()

        flops = 2 * rows**3 / best(turn(multiply, 0.5, clock))
        return {"flops": flops, "bandwidth": 2 * size / best(turn(rescale, 0.5, clock))}

    def facts(self) -> dict[str, Any]:
        torch, cuda = self.torch, self.device.type == "cuda"
        facts = {
            "device": f"cuda: {torch.cuda.get_device_name()}" if cuda else "cpu",
            "memory": {"device_peak": torch.cuda.max_memory_allocated()} if cuda else {},
            "flags": {
                "threads": torch.get_num_threads(),
                "float32_matmul_precision": torch.get_float32_matmul_precision(),
                "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
                "cudnn_benchmark": torch.backends.cudnn.benchmark,
            },
        }
        return facts | ({} if self.loss is None else {"loss": float(self.loss.detach())})

    def _set_precision(self) -> None:
        if self.case.dtype == "tf32" and self.device.type != "cuda":
            raise UserError("tf32 is a number format of GPUs; PyTorch runs on the CPU.")
        self.torch.set_float32_matmul_precision("high" if self.case.dtype == "tf32" else "highest")
        self.torch.backends.cudnn.allow_tf32 = self.case.dtype == "tf32"

    def _compiled(self, net: Any) -> Any:
        kind = self.name.removeprefix("torch-compile")
        if kind == self.name:
            return net
        if kind == "-freezing":
            if self.case.mode == "train":
                raise UserError(f"{self.name} freezes the weights, so it runs inference only.")
            originals.require("torch._inductor.config").freezing = True
        return self.torch.compile(net, mode="max-autotune" if kind == "-max-autotune" else None, dynamic=False)

    def _batches(self, layout: Any) -> tuple[list[Any], list[Any]]:
        preprocess = model_card(self.case.model).preprocess
        images = []
        for pixels in cases.images(self.case):
            floats = self.torch.from_numpy(normalise(pixels, preprocess).transpose(0, 3, 1, 2))
            images.append(floats.to(self.device, self.dtype).contiguous(memory_format=layout))
        labels = cases.labels(self.case).astype(np.int64)
        return images, [self.torch.from_numpy(each).to(self.device) for each in labels]

    def _logits(self, images: Any) -> Any:
        with self.torch.inference_mode():
            return self.run(images)

    def _step(self, images: Any, labels: Any) -> None:
        torch, half = self.torch, self.case.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else contextlib.nullcontext():
            output = self.run(images)
        logits, *heads = output if isinstance(output, tuple) else (output,)
        losses = [
            torch.nn.functional.cross_entropy(each.float(), labels) for each in (logits, *heads) if each is not None
        ]
        self.loss = losses[0] + self.aux_weight * sum(losses[1:])
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.backward()
        self.optimizer.step()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
