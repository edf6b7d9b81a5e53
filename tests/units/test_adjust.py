"""Adjust: fields that follow the registers of a run; the formula, and what is no Adjust."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import NANO, OVERLAYS, Code
from weft import isa
from weft.adjust import Adjuster, resolved
from weft.device import open_device
from weft.errors import DeviceError
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
    register=st.integers(0, 8), origin=numbers, source=numbers, offset=numbers, most=numbers,
    unit=st.integers(0, 31), scale=numbers, base=numbers, drop=st.integers(0, 1),
)  # fmt: skip
def test_a_field_is_what_the_formula_says(
    tokens, position, origin, source, register, offset, most, unit, scale, base, drop
):
    change = {"register_0": register, "offset_0": offset, "most_0": most, "unit_0": unit}
    change |= {"scale_0": scale, "base_0": base, "drop_0": drop}
    found = adjusted((tokens, position, origin, source), change)
    sums = int32(tokens + position), int32(origin + position)
    # A packed cache has groups of 32 tokens.
    completed = sums[0] // 32 - position // 32
    packed = completed, position % 32, int32(source + position % 32)
    value = (tokens, position, sums[0], origin, sums[1], source, *packed)[register]
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
    "register 9": (2, 0, program({"register_1": 9})),
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


@pytest.mark.parametrize(
    "registers", [(-1, 0), (65, 0), (0, -1), (0, -(1 << 31)), (0, 0, -1), (0, 0, 0, -1)]
)
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


def random_program(rng):
    """Reads, products and writes, each with Adjusts in front that may or may not suit it."""
    code = kernel.set_parameters(Code(OVERLAY), kernel.parameters(rng, 8))
    tile = kernel.codes(rng, 8, 8)
    code.add(isa.READ_HOST, words=512, chunks=1)  # all of the buffer: nothing is left from before
    for _ in range(int(rng.integers(1, 5))):
        f = kernel.simple_window(1, 4) | kernel.strides("source", (1, 1, 4))
        drop = random_adjust(rng, ())
        # Now and then a part of a product follows a condition of its own, and is missed.
        drops = [random_adjust(rng, ()) if rng.integers(12) == 0 else drop for _ in range(3)]
        if rng.integers(2):  # a product of `tokens` rows, or none of it
            start = sum(map(len, code.weights))
            code.weights.append(tile)
            rows = {"field_0": number(isa.MAT_MUL, "width"), "most_0": 4, "scale_0": 1}
            rows |= {"field_1": number(isa.MAT_MUL, "out_w"), "most_1": 4, "scale_1": 1}
            code.add(isa.ADJUST, **drops[0])
            code.add(isa.READ_WEIGHTS, memory=start, rows=8)
            code.add(isa.ADJUST, **drops[1]).add(isa.ADJUST, **rows)
            code.add(isa.MAT_MUL, **f, blocks=1, tiles=1, first=1, last=1)
            code.add(isa.ADJUST, **drops[2])
            code.add(isa.ACTIVATE, target=100, target_col=1, low=-128, high=127)
        move = isa.WRITE_HOST if rng.integers(2) else isa.READ_HOST
        for _ in range(int(rng.integers(0, 3))):
            code.add(isa.ADJUST, **random_adjust(rng, ("memory", "buffer", "words", "chunks")))
        at = 200 if move is isa.READ_HOST else 700
        code.add(move, memory=at, buffer=64, words=3, chunks=1)
    if rng.integers(8) == 0:
        rng.shuffle(code.words[-3:])
    return code


def number(kind, field):
    """The word of a field."""
    return 1 + [f.name for f in kind.fields].index(field)


def random_adjust(rng, names):
    """Fields of an Adjust that is likely to give something legal."""
    change = {}
    for i in range(3):
        name = str(rng.choice(np.array(["", *names])))
        field = number(isa.READ_HOST, name) if name else 0
        change |= {f"field_{i}": field, f"register_{i}": int(rng.integers(0, 9))}
        change |= {f"most_{i}": int(rng.integers(1, 9)), f"unit_{i}": int(rng.integers(0, 3))}
        change |= {f"offset_{i}": int(rng.integers(-2, 3)), f"scale_{i}": int(rng.integers(0, 3))}
        change |= {f"base_{i}": {"memory": 700, "buffer": 64}.get(name, 1)}
        change |= {f"drop_{i}": int(rng.integers(0, 4) == 0)}
    if rng.integers(12) == 0:  # now and then anything at all
        field = isa.ADJUST.fields[int(rng.integers(0, len(isa.ADJUST.fields)))]
        change[field.name] = int(rng.choice([field.low, field.high]))
    return change


def outcome(device, code, content, registers):
    """A fault's status and place; or counters and all of memory."""
    device.load(code.program(1, 1024))
    device.write(0, content)
    try:
        result = device.run(0, 1, 60, registers)
    except FaultError as fault:
        return fault.status, str(fault).partition(" (")[0]
    except DeviceError as error:
        return ("hazard" if "are read in the segment" in str(error) else str(error)), None
    return dict(result.counters), device.read(0, 1024).tobytes()


def test_random_programs_end_alike_on_every_form():
    rng = np.random.default_rng(5)
    names = ("functional", "cycle")
    golden, forms = open_device("golden"), [open_device("csim", form=name) for name in names]
    seen = {}
    for case in range(300):
        code = random_program(rng)
        content = kernel.codes(rng, 1024, 8)
        registers = (int(rng.integers(-1, 6)), *rng.integers(0, 12, 3).tolist())
        expected = outcome(golden, code, content, registers)
        kind = expected[0] if isinstance(expected[0], int | str) else "done"
        seen[kind] = seen.get(kind, 0) + 1
        for device in forms:
            assert outcome(device, code, content, registers) == expected, (case, device.form)
    assert seen["done"] >= 100, seen
    assert {2, 6, 9} <= set(seen) <= {"done", "hazard", *range(1, 10)}, seen


def test_the_exact_form_leaves_out_what_the_others_do():
    """A dropped product, its weights and its Activate: nobody waits for what does not come."""
    code = kernel.set_parameters(Code(NANO), (0, *[1 << 30, 0] * 2))
    drop = {"drop_0": 1, "most_0": 9}
    f = kernel.simple_window(1, 2) | kernel.strides("source", (1, 1, 2))
    code.add(isa.READ_HOST, words=8, chunks=1).add(isa.ADJUST, **drop)
    code.feed(np.ones((4, 4)))
    code.add(isa.ADJUST, **drop).add(isa.MAT_MUL, **f, blocks=1, tiles=1, first=1, last=1)
    code.add(isa.ADJUST, **drop).add(isa.ACTIVATE, target=20, target_col=1, low=-99, high=99)
    rng = np.random.default_rng(0)
    for tokens in (0, 1):
        content = kernel.codes(rng, 8, 4)
        kernel.check(code, content, registers=(tokens, 0), forms=("exact", "functional", "cycle"))
