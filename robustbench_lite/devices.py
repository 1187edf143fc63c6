"""From a device's name to the device."""

import torch

from robustbench_lite.errors import UserError, unknown_device

ACCEPTED = "auto, cpu, cuda, cuda:0, …"


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one.

    Raises:
        UserError: no such name, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown_device(str(name)) from None
    if device.type not in ("cpu", "cuda"):
        raise unknown_device(str(name))
    if device.type == "cuda" and not torch.cuda.device_count():
        raise UserError(f"device={name}, but torch finds no GPU here; accepted: auto, cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}, but torch finds {torch.cuda.device_count()} GPUs here; accepted: {ACCEPTED}")
    return device
