"""The columns of a table of generators: by what a row is known, and what a terminal has room for."""

#: the columns that come first, and the clock
HEAD, CLOCK = ("generator", "data", "kind", "setting"), "training_seconds"
#: figures that people ask for first
SHOWN = (
    *("modes", "modes_sd", "high_quality", "reverse_kl", "kl", "frechet", "precision", "recall", "agreement"),
    *("usefulness", "ivom", "restored", CLOCK),
)


def base(data: str) -> str:
    """The dataset's name without its options."""
    return data.partition(":")[0].partition(";")[0]
