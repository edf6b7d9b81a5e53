"""Adjust: fields that follow the registers of a run; the formula, and what is no Adjust."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import OVERLAYS, Code
from weft import isa
from weft.adjust import Adjuster, resolved
from weft.state import FaultError

OVERLAY = OVERLAYS["8x8"]
MOVE = {"words": 1, "chunks": 1}
WORDS_FIELD = 1 + [f.name for f in isa.READ_HOST.fields].index("words")
BUFFER = 1 + [f.name for f in isa.READ_HOST.fields].index("buffer")


def int32(value):
    """The low 32 bits of a Python integer, signed."""
    return (value + 2**31) % 2**32 - 2**31


def adjusted(registers, change, field="memory"):
    """Word `field` of a ReadHost behind one Adjust of it; None where it is left out."""
    number = 1 + [f.name for f in isa.READ_HOST.fields].index(field)
    words = np.stack([isa.ADJUST.encode(field_0=number, **change), isa.READ_HOST.encode()])
    made = dict(resolved(words, registers))[1]
    return None if made is None else int(made[number])


numbers = st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-40, 40)


@given(
    tokens=st.integers(0, 64), position=st.integers(0, (1 << 31) - 1) | st.integers(0, 99),
    register=st.integers(0, 4), origin=numbers, offset=numbers, most=numbers,
    unit=st.integers(0, 31),
    scale=numbers, base=numbers, drop=st.integers(0, 1),
)  # fmt: skip
def test_a_field_is_what_the_formula_says(
    tokens, position, origin, register, offset, most, unit, scale, base, drop
):
    change = {"register_0": register, "offset_0": offset, "most_0": most, "unit_0": unit}
    change |= {"scale_0": scale, "base_0": base, "drop_0": drop}
    found = adjusted((tokens, position, origin), change)
    sums = int32(tokens + position), int32(origin + position)
    value = (tokens, position, sums[0], origin, sums[1])[register]
    a = min(most, int32(value - offset))
    if drop and a < 1:
        assert found is None
    else:
        assert found == int32(base + scale * -((-a) // 2**unit))


def program(*adjusts, then=isa.READ_HOST, **fields):
    code = Code(OVERLAY)
    for change in adjusts:
        code.add(isa.ADJUST, **change)
    return code.add(then, **(fields or MOVE))


BAD = {
    "register 5": (2, 0, program({"register_1": 5})),
    "a word that the instruction lacks": (2, 1, program({"field_0": 10})),
    "three of them": (6, 2, program({}, {}, {})),
    "before a Barrier": (6, 1, Code(OVERLAY).add(isa.ADJUST)),
    "a value outside its field": (2, 1, program({"field_0": WORDS_FIELD, "base_0": -1})),
    "a size of 0": (2, 1, program({"field_0": WORDS_FIELD})),
    "an address outside": (3, 1, program({"field_0": BUFFER, "base_0": 512})),
    "an Activate left out": (
        6,
        5,
        kernel.set_parameters(Code(OVERLAY), (0, 0, 0, 0, 0)).add(
            isa.VECTOR, **kernel.simple_window(1, 1), blocks=1
        )
        .add(isa.ADJUST, drop_0=1)
        .add(isa.ACTIVATE, target=9)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_adjusts_have_a_status_and_a_place(case):
    status, number, code = BAD[case]
    for device in ("golden", "csim"):
        with pytest.raises(FaultError, match=rf"instruction {number} ") as caught:
            kernel.run(code, device, bare=True)
        assert caught.value.status == status, device


@pytest.mark.parametrize("registers", [(-1, 0), (65, 0), (0, -1), (0, -(1 << 31))])
def test_registers_have_their_range(registers):
    for device in ("golden", "csim"):
        with pytest.raises(FaultError, match="instruction 0 ") as caught:
            kernel.run(program({}), device, registers=registers)
        assert caught.value.status == 2


def test_what_is_left_out_takes_no_clock():
    code = program({"drop_0": 1, "most_0": 9}).add(isa.READ_HOST, **MOVE)
    _, without = kernel.run(Code(OVERLAY).add(isa.READ_HOST, **MOVE))
    for tokens, more in ((0, 0), (1, 8 + OVERLAY.beats)):
        _, result = kernel.run(code, registers=(tokens, 0))
        assert result.cycles == without.cycles + more


def test_later_adjustments_win_and_both_adjusts_count():
    adjuster = Adjuster((3, 5))
    for change in (
        {"field_0": 3, "base_0": 7, "field_1": 2, "register_1": 2, "scale_1": 10},
        {"field_0": 3, "base_0": 9, "field_2": 4, "scale_2": 1, "register_2": 1},
    ):
        adjuster.take(isa.ADJUST.encode(**change))
    # `most` is 0 where nobody names it.
    assert adjuster.apply(isa.READ_HOST.encode(words=4)).tolist()[:5] == [1, 0, 0, 9, 0]
    assert adjuster.apply(isa.READ_HOST.encode(words=4)).tolist()[:5] == [1, 0, 0, 4, 0]
