"""What a long command is doing, as numbers and as a line of text."""

from dataclasses import dataclass

#: seconds of a stage that tell its pace
_ENOUGH = 1.0


@dataclass(kw_only=True)
class Activity:
    """A cell, a training, or something that is not counted.

    Args:
        text: what it is. began: on the clock of the caller. total: samples, steps or tasks; 0 where nothing is counted.
        ended: of them. counts: what a sample is called that counts (`broken`), None where none does.
        broken: samples that count so far. number: `3/12  `, its place in the plan, or nothing.
        stage, step, steps, left: as the cell told; see `Reporter.progress`.
        share: of the work that is done, in [0, 1]; None before there is an estimate.
    """

    text: str
    began: float
    total: int = 0
    ended: int = 0
    counts: str | None = "broken"
    broken: int = 0
    number: str = ""
    stage: str = ""
    step: int = 0
    steps: int = 0
    left: int | None = None
    share: float | None = None
    #: when, and at which share, the work was first seen: what came before (a resumed cell) says nothing of the pace
    start: tuple[float, float] | None = None
    #: the same of a stage that has just begun; stages go at different paces
    turned: tuple[float, float] | None = None
    told: bool = False

    def at(self, share: float, now: float, *, turns: bool = False) -> None:
        """So much of the work is done, as the work itself tells.

        Args:
            turns: another stage has begun since; the time left goes by its pace, as soon as it has one.
        """
        if not self.told:
            self.told, self.start, self.share = True, (now, share), None
        elif turns:
            self.turned = now, share
        elif self.turned is not None and now - self.turned[0] >= _ENOUGH and share > self.turned[1]:
            self.start, self.turned = self.turned, None
        self.share = max(self.share or 0.0, min(share, 1.0))

    def advance(self, done: int, broken: int, now: float) -> None:
        """So many more have ended; how much of the work that is, where nobody tells."""
        self.ended, self.broken = self.ended + done, self.broken + broken
        if self.told or not self.total:
            return
        share = self.ended / self.total
        self.start, self.share = self.start or (now, share), share

    def seconds_left(self, now: float) -> float | None:
        """About how long it will take, if the rest goes as what was done."""
        if self.share is None or self.start is None:
            return None
        since, before = self.start
        done = self.share - before
        return None if done <= 0 else (now - since) * (1 - self.share) / done

    @property
    def where(self) -> str:
        """`apgd:steps=100 step 37/100`, or nothing; of checks `zero-gradients (3/12)`."""
        if not self.total:
            return f"{self.stage} ({self.step}/{self.steps})" if self.stage else ""
        step = f"step {self.step}/{self.steps}" if self.steps else ""
        return " ".join(part for part in (self.stage, step) if part)

    @property
    def briefly(self) -> str:
        """The same in few letters: `apgd 37/100`."""
        step = f"{self.step}/{self.steps}" if self.steps else ""
        return " ".join(part for part in (self.stage.partition(":")[0], step) if part)

    @property
    def counted(self) -> str:
        """`5 broken, 11 left`; where nothing counts `11/60`."""
        if not self.total:
            return ""
        if self.counts is None:
            return f"{self.ended}/{self.total}"
        left = self.total - self.ended if self.left is None else self.left
        return f"{self.broken} {self.counts}, {left} left"

    def line(self, now: float) -> str:
        """All of it, for a line of its own."""
        left = self.seconds_left(now)
        about = "" if left is None else f", about {minutes(left)} left"
        parts = [part for part in (self.where, self.counted) if part]
        return f"{self.text}: {', '.join([*parts, f'{minutes(now - self.began)} gone'])}{about}"


def minutes(seconds: float | None) -> str:
    """`1:05`, `2:00:00`, or a question mark."""
    if seconds is None:
        return "?"
    whole = int(seconds)
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}:" if whole >= 3600 else f"{whole // 60}:"
    return f"{hours}{whole % 60:02d}"
