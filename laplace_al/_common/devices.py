"""Devices that tensors live on: whether they are there, their memory, the way to the host."""

import os
from typing import Any

import torch


def available_memory(device: torch.device) -> float:
    """Return the bytes that can be allocated on a device, infinity where that is not told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return 1024.0 * int(line.split()[1])
    return float("inf")


def available_device(device: str | torch.device) -> torch.device:
    """Return a device that tensors can be made on."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")  # below it, advice to developers
        raise ValueError(
            f"device={str(device)!r} is not available: {reason}. Use device='cpu'."
        ) from error


def on_host(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return tensors of one dtype and device on the CPU: the host waits for the device once.

    Those that are there are the very same ones.
    """
    away = [tensor for tensor in tensors if tensor.device.type != "cpu"]
    if not away:
        return list(tensors)
    numbers = torch.cat([tensor.flatten() for tensor in away]).cpu()
    parts = iter(numbers.split([tensor.numel() for tensor in away]))
    return [
        tensor if tensor.device.type == "cpu" else next(parts).reshape(tensor.shape)
        for tensor in tensors
    ]


def on_device(values: Any, like: torch.Tensor) -> torch.Tensor:
    """Return a few numbers of the host as a tensor of that dtype and device.

    The host does not wait for the device. A tensor that is one already is the very same one.
    """
    # CUDA has read memory that is not pinned when this returns, MPS may not
    is_read = like.device.type != "mps"
    return torch.as_tensor(values).to(like.dtype).to(like.device, non_blocking=is_read)


def as_array(X: Any) -> Any:
    """Return a tensor as an array, wherever it lives, or what is no tensor as it is.

    NumPy has no bfloat16, which becomes float32.
    """
    if not isinstance(X, torch.Tensor):
        return X
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy(force=True)
