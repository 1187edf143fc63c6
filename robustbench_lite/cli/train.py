"""`rbl train`: train a model, defended or not, and write it as a checkpoint."""

EXAMPLES = ""


def train() -> None:
    """Train."""
