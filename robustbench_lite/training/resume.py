"""A training's last epoch on disk, so that a kill costs minutes and not hours.

Tensors only (safetensors), never a pickle. What cannot be read, or belongs to another training, is not used.
"""

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robustbench_lite.cache import atomic_write
from robustbench_lite.hashing import hash_text

#: seconds between saves, so that short epochs are not spent on writing
INTERVAL = 5.0
_FILE = "epoch.safetensors"
_MODEL, _OPTIMIZER, _GROUP = "model/", "optimizer/", "group/"
Told = dict[str, Any]
#: tensors by group and name: whatever else a training must have to go on
Groups = Mapping[str, Mapping[str, Tensor]]


class Saver:
    """Saves and loads the state of one training.

    Args:
        folder: where; None saves nothing. task: what is trained and how; another task's file is not loaded.
    """

    def __init__(self, folder: Path | None, task: str) -> None:
        self._path = None if folder is None else folder / _FILE
        self._task = hash_text(task)
        self._last = time.monotonic()

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        groups: Groups,
        told: Told,
        *,
        last: bool = False,
    ) -> None:
        """Write the state, if it is time to or the last epoch; where it cannot be written, say so and go on."""
        if self._path is None or not (last or time.monotonic() - self._last >= INTERVAL):
            return
        tensors = _named(_MODEL, model.state_dict()) | _optimizer_tensors(optimizer)
        for name, group in groups.items():
            tensors |= _named(f"{_GROUP}{name}/", group)
        metadata = {"task": self._task, "told": json.dumps(told)}
        try:
            atomic_write(self._path, save(tensors, metadata))
        except OSError as error:
            warnings.warn(f"the training cannot be continued after a kill: {error}", stacklevel=2)
            self._path = None
        self._last = time.monotonic()

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[Told, dict[str, dict[str, Tensor]]] | None:
        """Put model and optimizer back to the saved epoch; what was told with it, and the groups that are not empty."""
        if self._path is None or not self._path.is_file():
            return None
        device = str(next((value.device for value in model.state_dict().values()), "cpu"))
        try:
            with safe_open(self._path, "pt", device=device) as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError) as error:
            warnings.warn(f"the saved epoch is damaged ({error}); the training starts anew", stacklevel=2)
            return None
        if metadata.get("task") != self._task:
            return None
        model.load_state_dict(_under(_MODEL, tensors))
        _load_optimizer(optimizer, _under(_OPTIMIZER, tensors))
        return json.loads(metadata["told"]), _groups(_under(_GROUP, tensors))


def _groups(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = value
    return groups


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, because safetensors refuses tensors that share memory (tied weights).
    return {prefix + name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{_OPTIMIZER}{number}/{name}": value.detach().cpu().clone().contiguous()
        for number, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # As they lay in memory before: arithmetic on another layout may round otherwise.
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
