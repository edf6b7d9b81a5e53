"""Compiles a model for every overlay and says how fast it would be on every board.

python examples/which_overlay.py                        # the digits network that comes with weft
python examples/which_overlay.py model.onnx data.npz    # calibration data named as the inputs
"""

from __future__ import annotations

import sys

from rich.console import Console

import weft
from weft.config import board_names, overlay_names
from weft.demo import MODELS, load_data
from weft.report import seconds, table


def main(words: list[str]) -> None:
    if len(words) not in (0, 2):
        sys.exit(__doc__)
    model, calibration = words or (MODELS / "digits.onnx", load_data().calibration)
    rows = []
    for overlay in overlay_names():
        program = weft.compile(model, overlay, calibration=calibration)
        for name in board_names():
            board = weft.load_board(name)
            found = weft.estimate(program, batch=program.batch, board=board)
            per_sample = found.wall_s / program.batch
            rows.append((overlay, name, found.cycles // program.batch, seconds(per_sample)))
    columns = ("overlay", "board", "#cycles per sample", "#time per sample")
    Console().print(table(str(model), columns, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
