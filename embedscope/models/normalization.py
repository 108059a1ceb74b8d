"""BatchNorm over several processes: statistics of the whole batch, of which each process has its share."""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedscope import distributed


def own_statistics(module: nn.Module) -> str | None:
    """Name the first BatchNorm inside whose statistics could not be those of the whole batch, or None if there is none.

    That is one with a forward pass of its own (torch's SyncBatchNorm, timm's BatchNormAct2d), and one that keeps no running
    statistics, so that validation, where processes do not go in step, would need those of a batch.
    """
    found: list[str] = [
        name
        for name, each in module.named_modules()
        if isinstance(each, _BatchNorm) and (type(each).forward is not _BatchNorm.forward or each.running_mean is None)
    ]
    return found[0] if found else None


def share_statistics(module: nn.Module) -> None:
    """Let every BatchNorm inside, in training mode, normalize by mean and variance of the batches of all processes together.

    torch's SyncBatchNorm is for GPUs only, and takes every process to have rows. In one process nothing changes.
    """
    if distributed.world_size() > 1:
        for each in module.modules():
            if isinstance(each, _BatchNorm):
                each.forward = MethodType(_forward, each)  # type: ignore[method-assign]


def _forward(self: _BatchNorm, inputs: Tensor) -> Tensor:
    if not self.training:
        return type(self).forward(self, inputs)
    self._check_input_dim(inputs)  # type: ignore[no-untyped-call]
    values = inputs if inputs.dtype == torch.float64 else inputs.float()
    axes, shape = [0, *range(2, values.ndim)], [1, -1, *[1] * (values.ndim - 2)]
    own = values.new_full((1,), values.numel() / values.shape[1])
    summed = distributed.sum_over_processes(torch.cat([values.sum(axes), own]))
    count = summed[-1].detach()
    if count <= 1:
        raise ValueError(f"BatchNorm needs more than one value per channel in a batch, got {int(count)}")
    mean = summed[:-1] / count
    centered = values - mean.view(shape)
    variance = distributed.sum_over_processes(centered.square().sum(axes)) / count
    if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)
    found = centered * (variance + self.eps).rsqrt().view(shape)
    if self.affine:
        found = found * self.weight.view(shape) + self.bias.view(shape)
    return found.to(inputs.dtype)
