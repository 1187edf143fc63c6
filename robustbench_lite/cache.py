"""Files that are written whole or not at all, and trained models kept by content.

A trained model is kept under a key over everything that decides its weights. A damaged file is trained again, a folder
that cannot be written means a run without a cache; both are said aloud, neither changes a number.
"""

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.errors import UserError, cut

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Card = dict[str, Any]
_LOGGER = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where trained models lie: $RBL_CACHE, else $XDG_CACHE_HOME/robustbench-lite, else ~/.cache/robustbench-lite."""
    own, shared = os.environ.get("RBL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(shared) if shared else Path.home() / ".cache") / "robustbench-lite"


def atomic_write(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file so that readers see the old one or the whole new one, even after a kill or a power cut.

    Args:
        path: its folder is made if need be.
        content: the bytes, or a function that writes the file at the path it is given (in the same folder).

    Raises:
        OSError: the folder is read-only or full; nothing is left behind, and a file that was there is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        if callable(content):
            content(temporary.absolute())  # pyarrow would read `out:1/rows` as an address
        else:
            temporary.write_bytes(content)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the file itself is on the disk
        _sync(path.parent)


def atomic_savez(path: Path, **arrays: "np.ndarray") -> None:
    """`numpy.savez_compressed`, the file whole or not at all.

    Raises:
        OSError: as `atomic_write`.
    """
    import numpy as np

    held: dict[str, Any] = {**arrays}

    def save(place: Path) -> None:
        with place.open("wb") as file:  # to a name, numpy would add .npz
            np.savez_compressed(file, **held)

    atomic_write(path, save)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What cannot be written there is the user's affair: a read-only folder, a full disk.

    Raises:
        UserError: an OSError of what is done inside, in a sentence.
    """
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        in_the_way = isinstance(error, (IsADirectoryError, NotADirectoryError, FileExistsError))
        place = (error.filename2 or error.filename or folder) if in_the_way else folder
        raise UserError(f"cannot write to {str(place)!r}: {why}") from error


def writable(folder: Path) -> None:
    """Make the folder, and see that a file can be written there: asked before the work, not after it.

    Raises:
        UserError: it cannot.
    """
    with writing(folder):
        _try(folder)


def load_or_train(
    key: str, model: "nn.Module", train: Callable[[Path | None], Card | None], *, fresh: bool = False
) -> Card | None:
    """Give `model` the trained weights of this key, from the cache or by training, and return their card.

    Two processes may do the same at once: both write the same bytes, each file at one stroke.

    Args:
        key: from `hashing.hash_json`. model: is changed in place, and put into eval mode.
        train: trains that very model and returns its card, or None where the weights alone are not all that it made and
            nothing is to be kept; it is given a folder for what it needs to go on after a kill.
        fresh: train even if there is a cached one.
    """
    path = cache_dir() / "models" / f"{key}.safetensors"
    card = None if fresh else _cached(path, model)
    if card is not None:
        _LOGGER.info("trained weights come from the cache: %s", path)
        return card
    writable, scratch = _writable(path.parent), path.with_suffix(".training")
    if fresh:
        shutil.rmtree(scratch, ignore_errors=True)
    card = train(scratch if writable else None)
    if writable and card is not None:
        _keep(path, model, card)
    shutil.rmtree(scratch, ignore_errors=True)
    return card


def load_or_make(key: str, make: "Callable[[], Mapping[str, Tensor]]") -> "dict[str, Tensor]":
    """Tensors of this key, from the cache or made now: what a part is fitted to that is no network's weights.

    Args:
        key: from `hashing.hash_json`, over everything that decides the tensors.
    """
    from safetensors.torch import save

    from robustbench_lite.hashing.values import hash_tensors

    path = cache_dir() / "parts" / f"{key}.safetensors"
    if path.is_file():
        try:
            held = _read_part(path, key)
            _LOGGER.info("a fitted part comes from the cache: %s", path)
            return held
        except UserError as error:
            warnings.warn(f"a cached part is not used and made again: {error}", stacklevel=2)
    writable = _writable(path.parent)
    made = {name: value.detach().cpu().clone().contiguous() for name, value in make().items()}
    if writable:
        try:
            atomic_write(path, save(made, metadata={"digest": hash_tensors(made), "key": key}))
        except OSError as error:
            warnings.warn(f"the part is not kept: {error}", stacklevel=2)
    return made


def _read_part(path: Path, key: str) -> "dict[str, Tensor]":
    """The tensors of a part.

    Raises:
        UserError: the file cannot be read, or does not hold what was written.
    """
    from safetensors import SafetensorError, safe_open

    from robustbench_lite.hashing.values import hash_tensors

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = file.metadata() or {}
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{str(path)!r} is damaged: {error}") from error
    if told.get("digest") != hash_tensors(tensors):
        raise UserError(f"{str(path)!r} does not hold what was written there")
    _check_key(path, told.get("key", key), key)
    return tensors


def _check_key(path: Path, told: object, key: str) -> None:
    """Refuse what was written under another name.

    Raises:
        UserError: it was.
    """
    if told != key:
        raise UserError(f"{str(path)!r} was copied there: it was written as {cut(told)}")


def _cached(path: Path, model: "nn.Module") -> Card | None:
    """Load the cached weights into the model; None without a fitting entry, said aloud where it is damaged."""
    # The card is written last, so an entry without one is none yet.
    if not path.with_suffix(".json").is_file():
        return None
    try:
        return _read(path, model)
    except UserError as error:
        warnings.warn(f"a cached model is not used and trained again: {error}", stacklevel=3)
        return None


def _read(path: Path, model: "nn.Module") -> Card:
    """Check everything before the model is touched: a half-loaded one would start the training that follows."""
    from robustbench_lite.hashing.values import hash_tensors
    from robustbench_lite.zoo.checkpoints import read_card
    from robustbench_lite.zoo.weights import read_weights

    card, (weights, _) = read_card(path.with_suffix(".json")), read_weights(path)
    _check_key(path, card.get("key", path.stem), path.stem)
    if card.get("weights") != hash_tensors(weights):
        raise UserError(f"{str(path)!r} does not hold the weights that its card was written for")
    own = {name: value.shape for name, value in model.state_dict().items()}
    if own != {name: value.shape for name, value in weights.items()}:
        raise UserError(f"{str(path)!r} does not fit the architecture")
    model.load_state_dict(weights)
    model.eval()
    return card


def _keep(path: Path, model: "nn.Module", card: Card) -> None:
    from robustbench_lite.zoo.checkpoints import save_checkpoint

    try:
        save_checkpoint(path, model, {**card, "key": path.stem})
    except (OSError, UserError) as error:
        warnings.warn(f"the trained model is not kept: {error}", stacklevel=3)


def _writable(folder: Path) -> bool:
    """Whether a file can be written there; says so where it cannot. Asked before the training, not after it."""
    try:
        _try(folder)
        return True
    except OSError as error:
        told = f"the cache {str(folder)!r} cannot be written ({error}); what is trained is not kept"
        warnings.warn(told, stacklevel=3)
        return False


def _try(folder: Path) -> None:
    """Write a file there and delete it; an OSError where that cannot be done."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _sync(path: Path) -> None:
    """Have the system write a file, or a folder's list of files, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
