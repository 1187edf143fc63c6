"""Minimise a smooth function over the box [0, 1]^d, every row by itself: projected L-BFGS, one question at a time."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.rows import Rows, along

#: a step must win this share of what the slope promises (Armijo)
SUFFICIENT = 1e-4
#: a row ends when a step wins, or promises, less than this, relative to the value (or to 1); or when no coordinate that
#: could move has a larger slope than this
FLAT, LEVEL = 2e-9, 1e-5
#: a pair of a move and the change of slope along it says nothing of the curvature where their product is this small
ROUND = 1e-10
#: how many steps in one direction may fail
PATIENCE = 20


@dataclass(frozen=True, kw_only=True)
class Minimiser(Rows):
    """Where n searches stand: ask about `proposal`, then tell `told` what came of it, until all have `ended`.

    The direction is that of L-BFGS (Nocedal and Wright 2006, Numerical Optimization, alg. 7.4) over the coordinates
    that are free: those at a wall whose slope points out of the box stay (Bertsekas 1982, Projected Newton methods). The
    step is cut at the box and cut until it wins enough.

    Args:
        at: (n, c, h, w), the best point. value: (n,) float64, slope: (n, c, h, w), the function and its gradient there.
        way: (n, c, h, w), the direction. reach: (n,) float64, how far along it to ask.
        refused: (n,) int64, steps that failed in this direction.
        moves, turns: (n, m, c, h, w), the last steps and the changes of slope along them, the newest last; 0 where there
            is none.
        ended: (n,) bool, nothing more to win.
    """

    at: Tensor
    value: Tensor
    slope: Tensor
    way: Tensor
    reach: Tensor
    refused: Tensor
    moves: Tensor
    turns: Tensor
    ended: Tensor

    @classmethod
    def begin(cls, x: Tensor, memory: int) -> Self:
        """Searches from x (n, c, h, w) that remember so many steps; the first question is about x itself."""
        rest = torch.zeros_like(x)
        past = rest[:, None].expand(-1, memory, *x.shape[1:])
        value = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(
            at=x,
            value=value,
            slope=rest,
            way=rest,
            reach=torch.ones_like(value),
            refused=none,
            moves=past,
            turns=past,
            ended=none.bool(),
        )

    @property
    def proposal(self) -> Tensor:
        """The points to ask about, (n, c, h, w)."""
        return (self.at + along(self.reach, self.at).float() * self.way).clamp(0, 1)

    def told(self, point: Tensor, value: Tensor, slope: Tensor) -> tuple[Self, Tensor]:
        """The searches once the proposals' values (n,) float64 and gradients are known; and who accepts, (n,) bool."""
        move = point - self.at
        promised = row_sum(self.slope * move)  # negative
        accepts = value <= self.value + SUFFICIENT * promised
        lost = ~accepts & (self.refused + 1 >= PATIENCE)
        ended = self.ended | torch.where(accepts, self._flat(self.value - value, value), self._flat(-promised, value))
        ended = ended | (lost & (self.turns == 0).flatten(1).all(1))  # the steepest direction failed
        after = replace(self._remembered(accepts, lost, move, slope - self.slope), ended=ended)
        after = replace(
            after,
            at=torch.where(along(accepts, point), point, self.at),
            value=torch.where(accepts, value, self.value),
            slope=torch.where(along(accepts, slope), slope, self.slope),
        )
        return after._aimed(accepts | lost, self._shortened(promised, value)), accepts

    def _flat(self, won: Tensor, value: Tensor) -> Tensor:
        known = self.value < torch.inf
        return known & (won <= FLAT * torch.maximum(value.abs(), self.value.abs()).clamp(min=1.0))

    def _remembered(self, accepts: Tensor, lost: Tensor, move: Tensor, turn: Tensor) -> Self:
        """With the newest step, where it shows a curvature; without all where the direction led nowhere."""
        shows = accepts & (row_sum(move * turn) > ROUND * row_sum(turn.square())) & (self.value < torch.inf)
        rows, kept = along(shows, self.moves), along(~lost, self.moves)
        return replace(
            self,
            moves=torch.where(rows, torch.cat((self.moves[:, 1:], move[:, None]), 1), self.moves) * kept,
            turns=torch.where(rows, torch.cat((self.turns[:, 1:], turn[:, None]), 1), self.turns) * kept,
        )

    def _shortened(self, promised: Tensor, value: Tensor) -> Tensor:
        """The lowest point of the parabola through what is known of this direction, between a tenth and a half."""
        bend = 2 * (value - self.value - promised)
        share = torch.where(bend > 0, -promised / bend, 0.5).nan_to_num(nan=0.1)
        return self.reach * share.clamp(0.1, 0.5)

    def _aimed(self, anew: Tensor, shorter: Tensor) -> Self:
        """With a new direction in some rows, and a shorter step in the others."""
        free = _free(self.at, self.slope)
        level = (self.slope * free).flatten(1).abs().amax(1) <= LEVEL
        if not bool(anew.any()):
            return replace(self, reach=shorter, refused=self.refused + 1, ended=self.ended | level)
        steepest = -self.slope * free
        way = -self._newton(free) * free
        way = way * _free(self.at, -way)
        falls = (row_sum(way * self.slope) < 0) & (self.turns != 0).flatten(1).any(1)
        first = 1 / row_sum(steepest.square()).sqrt().clamp(min=1.0)  # a first step has no scale: length 1 at the most
        way = torch.where(along(falls, way), way, steepest)
        return replace(
            self,
            way=torch.where(along(anew, way), way, self.way),
            reach=torch.where(anew, torch.where(falls, 1.0, first), shorter),
            refused=torch.where(anew, 0, self.refused + 1),
            ended=self.ended | level,
        )

    def _newton(self, free: Tensor) -> Tensor:
        """The slope times the inverse curvature that the last steps show, over the free coordinates."""
        moves, turns = self.moves * free[:, None], self.turns * free[:, None]
        products = _pairs(moves, turns)
        squares = _pairs(turns, turns)
        useful = products > ROUND * squares
        rate = torch.where(useful, 1 / products, 0.0)  # (n, m)
        found, shares = self.slope * free, []
        for age in reversed(range(moves.shape[1])):
            share = rate[:, age] * row_sum(moves[:, age] * found)
            found = found - along(share, found).float() * turns[:, age]
            shares.append(share)
        found = found * along(_newest(products / squares, useful), found).float()
        for age, share in enumerate(reversed(shares)):
            change = share - rate[:, age] * row_sum(turns[:, age] * found)
            found = found + along(change, found).float() * moves[:, age]
        return found


def _free(at: Tensor, slope: Tensor) -> Tensor:
    """Which coordinates can move against the slope without leaving the box, 0 or 1."""
    return (~((at <= 0) & (slope > 0) | (at >= 1) & (slope < 0))).to(at.dtype)


def _pairs(one: Tensor, other: Tensor) -> Tensor:
    """The products of images with images, (n, m, c, h, w) -> (n, m)."""
    return row_sum((one * other).flatten(0, 1)).view(one.shape[:2])


def _newest(values: Tensor, useful: Tensor) -> Tensor:
    """The last useful number of each row (n, m) -> (n,); 1 where there is none."""
    place = torch.arange(1, values.shape[1] + 1, device=values.device) * useful
    last = place.amax(1)
    return torch.where(last > 0, values.gather(1, (last - 1).clamp(min=0)[:, None])[:, 0], 1.0)
