"""How good a generator is, measured: modes, distances between what a classifier sees, copies, inversion, usefulness.

`measure` runs what applies to the data; `table` puts its figures beside the published ones.
"""

from robustbench_lite.generators.quality.judges import taught
from robustbench_lite.generators.quality.measure import measure
from robustbench_lite.generators.quality.published import PUBLISHED, Row, table

__all__ = ["PUBLISHED", "Row", "measure", "table", "taught"]
