"""How fast a board would generate: a step of one token, by the estimate of its instructions."""

from __future__ import annotations

from dataclasses import dataclass

from weft.config import Board, load_board
from weft.errors import ProgramError
from weft.estimate import estimate
from weft.program import Program


@dataclass(frozen=True)
class Rate:
    """A step of one token: clocks, bytes from and to memory, seconds, and the share of the memory's
    bandwidth that is in use.
    """

    cycles: int
    bytes: int
    seconds: float
    bandwidth: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second."""
        return 1 / self.seconds


def step_rate(program: Program, board: Board | str, position: int) -> Rate:
    """A step behind `position` tokens as it would be on a board.

    Raises ProgramError for a program that is no decoder's, or holds fewer tokens.
    """
    cache = program.cache
    if cache is None or not 0 <= position < cache.capacity:
        held = 0 if cache is None else cache.capacity
        raise ProgramError(f"program {program.name!r}: token {position} of a cache of {held}")
    found = board if isinstance(board, Board) else load_board(board)
    step = estimate(program, board=found, registers=(1, position, 0, cache.source))
    seconds = step.wall_s or 0.0
    return Rate(step.cycles, step.bytes, seconds, step.bytes / (seconds * found.memory_bytes_per_s))
