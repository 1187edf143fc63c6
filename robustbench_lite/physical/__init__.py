"""What a camera does to an image before the system sees it: distributions of transformations, as data."""

from robustbench_lite.physical.camera import Camera, View
from robustbench_lite.physical.presets import PRESETS, resolve_camera

__all__ = ["PRESETS", "Camera", "View", "resolve_camera"]
