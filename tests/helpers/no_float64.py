"""A stand-in for a device without float64, such as Apple's mps, on a machine that has none."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoFloat64(TorchDispatchMode):
    """While active, every operation fails that leaves a float64 tensor on the device.

    device: which device stands for the one without float64. "cpu": the whole computation, where nothing is meant to be
        in float64 on the CPU either. "meta": code that moves tensors to the CPU first may use float64 there.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (tensor.dtype, tensor.device.type) == (torch.float64, self.device):
                raise TypeError(
                    f"Cannot convert a tensor to float64 dtype, as the device doesn't support float64: {function}"
                )
        return result
