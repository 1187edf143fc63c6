"""Where images come from: scikit-learn's digits, torchvision's sets, a folder of images, an `.npz` file, a generator, tensors."""

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.load import load
from robustbench_lite.data.slices import choose, describe_slice, outside
from robustbench_lite.data.tensors import from_tensors

__all__ = ["Dataset", "choose", "describe_slice", "from_tensors", "load", "outside"]
