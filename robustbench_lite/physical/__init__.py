"""What a camera does to an image before the system sees it: distributions of transformations, as data."""

from robustbench_lite.physical.camera import Camera, View
from robustbench_lite.physical.presets import PRESETS, resolve_camera

#: told by its code in the keys of what is made of it; see `hashing.values`
__hashed_by_code__ = True
__all__ = ["PRESETS", "Camera", "View", "resolve_camera"]
