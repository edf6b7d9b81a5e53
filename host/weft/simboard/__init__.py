"""A PYNQ board made of software: unmodified pynq on top, the C simulation of the kernel below.

`board.Board` is a pynq.Device, `memory` its two memories (what the processor sees, what the logic
sees), `logic` the kernel behind its registers, `faults` what can be made to go wrong, `server` the
same board behind PYNQ.remote's protocol. The weft device is `weft.device.simboard`.
"""
