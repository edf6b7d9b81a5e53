"""What can be made to go wrong on a simulated board."""

from __future__ import annotations

FAULTS = {
    "hang_start": "the kernel never takes its start",
    "hang_middle": "the kernel stops half-way through its instructions",
    "design_id": "the kernel reports another design's id",
    "clock": "the PL clock stays as it is, whatever is asked for",
    "allocation": "no memory can be allocated, whatever CmaFree says",
    "cma": "only a page of contiguous memory is free",
    "interrupt": "interrupts never arrive",
    "status": "an instruction is damaged in the board's memory",
    "output": "a bit of what the kernel writes flips",
    "overrun": "the kernel writes past the end of activation memory",
    "stray": "the kernel addresses memory that nobody allocated",
    "gone": "the board does not answer any more",
}
