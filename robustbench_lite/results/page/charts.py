"""Charts as inline SVG: shares of test images against something, as lines or as bars.

Colours are classes (`c0` to `c7`) that the style sheet fills in, so that a chart follows light and dark; everything else is
`currentColor`. A line carries the number of its legend entry at its end: colour is never the only thing that tells two
lines apart. Sizes are for a phone (360 units wide), where one unit is about one CSS pixel.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

COLOURS = 8
WIDTH, HEIGHT = 360, 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 338.0, 10.0, 194.0
#: vertical room of a line's number
_APART = 11.0
#: points of a line that is drawn; more cannot be seen
_POINTS = 60

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart.

    Args:
        name: in the legend. points: (x, share in [0, 1]), x ascending. colour: its place in the palette.
        dashed: drawn so. step: the share holds until the next point. band: (x, low, high) of its interval.
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    step: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One system of a bar chart, all in [0, 1]; NaN for what there is not. Without a value only the interval is drawn."""

    name: str
    clean: float
    actual: float
    low: float
    high: float
    claimed: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The horizontal axis. Logarithmic ones begin at `least`, where everything smaller is drawn."""

    label: str
    most: float
    log: bool = False
    least: float = 0.0

    def place(self, x: float) -> float:
        """Where a value is, in units of the picture."""
        if not self.log:
            share = x / self.most if self.most > 0 else 0.0
        else:
            low, high = math.log10(self.least), math.log10(max(self.most, 1.0001 * self.least))
            share = (math.log10(max(x, self.least)) - low) / (high - low)
        return _LEFT + min(max(share, 0.0), 1.0) * (_RIGHT - _LEFT)

    def ticks(self) -> list[float]:
        """At most seven round values."""
        if not self.log:
            step = _round_step(self.most)
            return [k * step for k in range(int(self.most / step + 1e-9) + 1)]
        low, high = math.ceil(math.log10(self.least) - 1e-9), math.floor(math.log10(self.most) + 1e-9)
        found = [10.0**k for k in range(low, high + 1, 1 + max(high - low, 0) // 6)]
        return found if len(found) > 1 else [self.least, self.most]


def line_chart(title: str, lines: Sequence[Line], axis: Axis, identity: str) -> Markup:
    """The chart as SVG, named by its title and described in a sentence a line.

    Args:
        identity: an id that no other chart of the page has.
    """
    parts = [_frame(axis), *(_band(line, axis) for line in lines if line.band)]
    parts += [_line(line, axis) for line in lines]
    parts += _numbers(lines, axis)
    said = " ".join(_told(line) for line in lines)
    return _svg(identity, title, f"{len(lines)} lines over {axis.label}. {said}", HEIGHT, parts)


def bar_chart(title: str, bars: Sequence[Bar], identity: str) -> Markup:
    """Horizontal bars, a system below the other: actual filled with its interval, claimed as an outline, clean as a mark."""
    parts, y = [], 2.0
    for bar in bars:
        drawn, y = _bar(bar, y)
        parts.append(drawn)
    return _svg(identity, title, " ".join(_bar_told(bar) for bar in bars), y, parts)


def number(value: float) -> str:
    """A value of an axis, short: 0.031, 8, 1000."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"


def thinned(points: Sequence[Point], most: int = _POINTS) -> list[Point]:
    """At most so many of the points, both ends among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]


def _svg(identity: str, title: str, said: str, height: float, parts: Sequence[Markup]) -> Markup:
    head = Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-labelledby="{i}-t {i}-d"><title id="{i}-t">{t}</title>'
        '<desc id="{i}-d">{d}</desc>'
    ).format(w=WIDTH, h=f"{height:g}", i=identity, t=title, d=said)
    return head + Markup("").join(parts) + Markup("</svg>")


def _frame(axis: Axis) -> Markup:
    """Grid, ticks and labels."""
    parts = []
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent / 100)
        parts.append(Markup('<path class="g" d="M{} {}H{}"/>').format(_n(_LEFT), _n(y), _n(_RIGHT)))
        parts.append(Markup('<text class="e" x="{}" y="{}">{}</text>').format(_n(_LEFT - 5), _n(y + 4), percent))
    for tick in axis.ticks():
        x = axis.place(tick)
        parts.append(Markup('<path class="g" d="M{} {}v4"/>').format(_n(x), _n(_BOTTOM)))
        text = Markup('<text class="m" x="{}" y="{}">{}</text>')
        parts.append(text.format(_n(x), _n(_BOTTOM + 16), number(tick)))
    label = Markup('<text class="m" x="{}" y="{}">{}</text>')
    parts.append(label.format(_n((_LEFT + _RIGHT) / 2), _n(_BOTTOM + 33), axis.label))
    return Markup("").join(parts)


def _line(line: Line, axis: Axis) -> Markup:
    places = [(axis.place(x), _y(y)) for x, y in thinned(line.points) if not math.isnan(y)]
    if not places:
        return Markup("")
    path = f"M{_n(places[0][0])} {_n(places[0][1])}"
    for x, y in places[1:]:
        path += f"H{_n(x)}V{_n(y)}" if line.step else f"L{_n(x)} {_n(y)}"
    classes = f"l c{line.colour % COLOURS}{' d' if line.dashed else ''}"
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(classes, path, line.name)


def _band(line: Line, axis: Axis) -> Markup:
    known = [(axis.place(x), _y(low), _y(high)) for x, low, high in line.band if not math.isnan(low + high)]
    if len(known) < 2:
        return Markup("")
    known = known if len(known) <= _POINTS else known[:: math.ceil(len(known) / _POINTS)] + known[-1:]
    if line.step:  # an interval holds until the next point, as its share does
        corners = [point for a, b in pairwise(known) for point in (a, (b[0], a[1], a[2]))]
        known = [*corners, known[-1]]
    upper = "L".join(f"{_n(x)} {_n(high)}" for x, _, high in known)
    lower = "L".join(f"{_n(x)} {_n(low)}" for x, low, _ in reversed(known))
    return Markup('<path class="b c{}" d="M{}L{}Z"/>').format(line.colour % COLOURS, upper, lower)


def _numbers(lines: Sequence[Line], axis: Axis) -> Iterator[Markup]:
    """At the end of each line its number in the legend, moved apart where lines end together."""
    ends = [
        (_y(known[-1][1]), place, axis.place(known[-1][0])) for place, known in enumerate(map(_known, lines)) if known
    ]
    below = -math.inf
    spots: list[tuple[float, int, float]] = []
    for y, place, x in sorted(ends):
        below = max(y, below + _APART)
        spots.append((below, place, x))
    over = max((y for y, _, _ in spots), default=0.0) - _BOTTOM
    for place_in_row, (y, place, x) in enumerate(spots):
        lifted = max(min(y, y - over if over > 0 else y), _TOP + _APART * place_in_row - 2)
        colour = lines[place].colour % COLOURS
        yield Markup('<text class="n c{}" x="{}" y="{}">{}</text>').format(colour, _n(x + 4), _n(lifted + 4), place + 1)


def _told(line: Line) -> str:
    known = _known(line)
    if not known:
        return f"{line.name}: no figure."
    (first, high), (last, low) = known[0], known[-1]
    return f"{line.name}: {100 * high:.1f} % at {number(first)}, {100 * low:.1f} % at {number(last)}."


def _known(line: Line) -> list[Point]:
    return [point for point in line.points if not math.isnan(point[1])]


def _bar(bar: Bar, y: float) -> tuple[Markup, float]:
    """One system at this height, and where the next one begins."""
    left, wide = 4.0, 300.0
    value = Markup('<text x="{}" y="{}">{}</text>')
    short = bar.name if len(bar.name) <= 56 else f"{bar.name[:55]}…"
    parts = [Markup('<text x="{}" y="{}">{}<title>{}</title></text>').format(_n(left), _n(y + 11), short, bar.name)]
    y += 16
    if not math.isnan(bar.claimed):
        box = Markup('<rect class="o c1" x="{}" y="{}" width="{}" height="10"/>')
        parts.append(box.format(_n(left), _n(y), _n(wide * bar.claimed)))
        parts.append(value.format(_n(left + wide + 6), _n(y + 9), f"{100 * bar.claimed:.1f}"))
        y += 13
    if not math.isnan(bar.actual):
        fill = Markup('<rect class="f c0" x="{}" y="{}" width="{}" height="12"/>')
        parts.append(fill.format(_n(left), _n(y), _n(wide * bar.actual)))
    if not math.isnan(bar.low + bar.high):
        whisker = Markup('<path class="w" d="M{} {}H{}M{} {}v6M{} {}v6"/>')
        low, high = _n(left + wide * bar.low), _n(left + wide * bar.high)
        parts.append(whisker.format(low, _n(y + 6), high, low, _n(y + 3), high, _n(y + 3)))
    if not math.isnan(bar.clean):
        mark = Markup('<path class="k" d="M{} {}v16"/>')
        parts.append(mark.format(_n(left + wide * bar.clean), _n(y - 2)))
    told = "?" if math.isnan(bar.actual) else f"{100 * bar.actual:.1f}"
    parts.append(value.format(_n(left + wide + 6), _n(y + 10), told))
    return Markup("").join(parts), y + 24


def _bar_told(bar: Bar) -> str:
    claimed = "" if math.isnan(bar.claimed) else f" claimed {100 * bar.claimed:.1f} %,"
    if math.isnan(bar.actual):
        return f"{bar.name}:{claimed} no actual robust accuracy."
    return f"{bar.name}:{claimed} actual {100 * bar.actual:.1f} %, clean {100 * bar.clean:.1f} %."


def _y(share: float) -> float:
    return _BOTTOM - min(max(share, 0.0), 1.0) * (_BOTTOM - _TOP)


def _n(value: float) -> str:
    """A coordinate with a digit after the point, or none."""
    return f"{round(value, 1):g}"


def _round_step(most: float) -> float:
    """1, 2 or 5 times a power of ten, so that about five steps reach `most`."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if most / (factor * power) <= 6)
