"""What waiting for a board costs: `python -m bench.waiting`, in an environment with pynq.

One digit through Session.run on the C simulation and on the simulated board, which runs the same
simulation behind unmodified pynq. The difference is what the driver, pynq, and the simulated
registers and interrupt take of a call.
"""

from __future__ import annotations

import statistics
import time

import weft
from weft.demo import MODELS, load_data

CALLS, ROUNDS = 300, 9


def call_us(session: weft.Session, image) -> float:
    """Median time of a call, in microseconds."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        session.run(image)
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def main() -> None:
    """Prints the shortest of the rounds, in turns."""
    data = load_data()
    program = weft.compile(MODELS / "digits.onnx", "tiny", calibration=data.calibration)
    image = data.images[:1]
    ways = {
        "csim": ("csim", {}),
        "poll": ("simboard", {"wait": "poll"}),
        "interrupt": ("simboard", {"wait": "interrupt"}),
    }
    sessions = {name: weft.open(program, d, **options) for name, (d, options) in ways.items()}
    rounds = [{name: call_us(s, image) for name, s in sessions.items()} for _ in range(ROUNDS)]
    least = {name: min(r[name] for r in rounds) for name in ways}
    for name, us in least.items():
        print(f"{name:10} {us:7.0f} µs per call, {us - least['csim']:5.0f} µs over csim")
    for session in sessions.values():
        session.close()


if __name__ == "__main__":
    main()
