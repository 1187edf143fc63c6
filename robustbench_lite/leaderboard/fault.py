"""Something that is wrong in the files of a leaderboard."""

from dataclasses import dataclass

from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard.columns import ROWS


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong.

    Args:
        who: the row, or the line of a file, in words; nothing of a file as a whole. file: which of the tables (`columns.SEALED`).
        columns: those that are wrong, as far as that is known. text: why.
    """

    who: str = ""
    file: str = ROWS
    columns: tuple[str, ...] = ()
    text: str

    def told(self, name: str) -> str:
        """In a sentence; `name` is that of the leaderboard, without `.csv`."""
        file = "" if self.file == ROWS else f"{name}.{self.file}.csv"
        where = ", ".join(part for part in (file, self.who) if part)
        what = " and ".join(map(printable, self.columns))
        return ": ".join(part for part in (where, what, self.text) if part)

    def tells(self, other: "Fault") -> bool:
        """Whether it names all that the other one does: the same line, and its columns."""
        same = (self.file, self.who) == (other.file, other.who)
        return same and bool(other.columns) and set(other.columns) <= set(self.columns)
