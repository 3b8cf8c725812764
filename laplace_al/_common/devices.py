"""Devices that tensors live on: whether they are there, their memory, the way to the host."""

import os
from typing import Any

import torch


def available_memory(device: torch.device) -> float:
    """Bytes that can be allocated on a device.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    float
        Infinity where the system does not tell.

    Examples
    --------
    >>> available_memory(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return 1024.0 * int(line.split()[1])
    return float("inf")


def available_device(device: str | torch.device) -> torch.device:
    """A device that tensors can be made on.

    Parameters
    ----------
    device : str or torch.device

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If there is no such device.

    Examples
    --------
    >>> available_device("cpu")
    device(type='cpu')
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")  # below it, advice to developers
        raise ValueError(
            f"device={str(device)!r} is not available: {reason}. Use device='cpu'."
        ) from error


def on_host(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Tensors on the CPU, moved there in one go: the host waits for the device once.

    Parameters
    ----------
    *tensors : Tensor
        Of one dtype, and of one device or the CPU.

    Returns
    -------
    list of Tensor
        The very same ones where they are on the CPU.

    Examples
    --------
    >>> on_host(torch.ones(1), torch.zeros(1, 2))
    [tensor([1.]), tensor([[0., 0.]])]
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
    """Few numbers of the host, on their way to a device: the host does not wait for it.

    Parameters
    ----------
    values : ndarray or Tensor
        On the CPU.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    Tensor
        The very same one if that is what it is.

    Examples
    --------
    >>> import numpy as np
    >>> on_device(np.ones(1), like=torch.zeros(1))
    tensor([1.])
    """
    # CUDA has read memory that is not pinned when this returns, MPS may not
    is_read = like.device.type != "mps"
    return torch.as_tensor(values).to(like.dtype).to(like.device, non_blocking=is_read)


def as_array(X: Any) -> Any:
    """A tensor as an array, wherever it lives and whatever gradients it carries.

    Parameters
    ----------
    X : Tensor or object

    Returns
    -------
    ndarray or object
        What is no tensor is returned as it is. NumPy has no bfloat16: that becomes float32.

    Examples
    --------
    >>> as_array(torch.ones(1, dtype=torch.bfloat16, requires_grad=True))
    array([1.], dtype=float32)
    """
    if not isinstance(X, torch.Tensor):
        return X
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy(force=True)
