"""The resource model: geometry rules exactly, blocks and arrays against published figures."""

from __future__ import annotations

import csv
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from weft import engine_costs, resources, storage
from weft.config import load_board, load_overlay, overlay_names
from weft.designs import Designs
from weft.errors import OverlayError

# Weight-stationary arrays of one MAC (A6) or four (A1 to A5: two products in a DSP at twice the
# clock) per element: rows and columns of as many MACs per clock, products per DSP, bits, and how
# many of our DSPs do the work of one there. Others and why not: docs/estimates.md.
COMPARABLE = {
    "A1": (16, 16, 2, 8, 2),
    "A2": (28, 28, 2, 8, 2),
    "A3": (16, 16, 2, 8, 2),
    "A4": (28, 28, 2, 8, 2),
    "A5": (64, 64, 2, 8, 2),
    "A6": (8, 8, 1, 16, 1),
}


@pytest.fixture(scope="module")
def published(shared_data):
    """Rows of the table of published figures by id."""
    path = shared_data.parent / "spec" / "resources.csv"
    if not path.is_file():
        pytest.skip(f"no published figures at {path}")
    with path.open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def ratios(published):
    """(id, kind) → ours over theirs, the doubled clock of their DSPs allowed for."""
    found = {}
    for name, (rows, cols, shared, bits, faster) in COMPARABLE.items():
        ours = resources.array(rows, cols, shared, bits)
        for kind in ("lut", "ff", "dsp"):
            scale = faster if kind == "dsp" else 1
            found[name, kind] = float(getattr(ours, kind)) / (scale * float(published[name][kind]))
    return found


def test_arrays_agree_with_published_ones(published):
    found = ratios(published)
    apart = {key: max(r, 1 / r) for key, r in found.items()}
    assert median(apart.values()) <= 1.5
    for kind in ("lut", "ff", "dsp"):
        assert median(apart[name, kind] for name in COMPARABLE) <= 1.5
    assert all(found[name, "dsp"] == 1 for name in COMPARABLE)
    # The one miss: LUTs of the 8 × 8 array, which shares what ours has per element.
    assert {key for key, r in apart.items() if r > 1.5} == {("A1", "lut"), ("A3", "lut")}


@pytest.mark.parametrize("bits", [32, 64, 128, 256, 512])
def test_memory_ports_are_within_a_tenth(published, bits):
    ours, row = resources.m_axi(bits), published[f"M{bits}"]
    assert float(ours.lut) == pytest.approx(float(row["lut"]), rel=0.1)
    assert float(ours.ff) == pytest.approx(float(row["ff"]), rel=0.1)
    assert abs(float(ours.bram36) - float(row["bram36"])) <= 1


def test_register_map_and_streams_are_exact(published):
    ours, row = resources.s_axilite(4), published["M6"]
    assert (ours.lut, ours.ff) == (float(row["lut"]), float(row["ff"]))
    row = published["F3"]
    assert storage.uram(16384, 256) == float(row["uram"])
    row = published["F2"]
    _, ff, bram = storage.fifo(1024, 32)
    assert (ff, bram) == (float(row["ff"]), float(row["bram36"]))


@pytest.mark.parametrize(
    ("depth", "width", "tiles"),
    [(512, 36, 0.5), (512, 72, 1), (1024, 32, 1), (1024, 18, 0.5), (32768, 1, 1), (4096, 8, 1),
     (4097, 8, 1.5), (2048, 8, 0.5), (256, 8, 0.5), (32768, 64, 64)],
)  # fmt: skip
def test_block_ram_by_its_shapes(depth, width, tiles):
    assert storage.bram36(depth, width) == tiles


def test_block_ram_never_shrinks_as_a_memory_grows():
    depth, width = np.meshgrid(np.arange(64, 9000, 61), np.arange(1, 300, 7), indexing="ij")
    tiles = storage.bram36(depth, width)
    assert (np.diff(tiles, axis=0) >= 0).all()
    assert (np.diff(tiles, axis=1) >= 0).all()
    assert (tiles * 36 * 1024 >= depth * width).all()
    assert (storage.uram(depth, width) * 288 * 1024 >= depth * width).all()


def test_small_memories_go_to_luts():
    assert storage.ram(32, 6)[0] == 4
    assert storage.ram(64, 3)[0] == 4
    assert storage.ram(64, 64) == (88, 0)
    lut, tiles = storage.ram(2048, 32)
    assert (lut, tiles) == (0, 2)


PLAIN = {"engines": ("systolic",), "units": ("requant", "vector", "lookup")}
ALIKE = [n for n in overlay_names() if PLAIN.items() <= vars(load_overlay(n)).items()]


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("board", ["Pynq-Z2", "KV260", "Alveo-U55C"])
def test_many_designs_at_once_are_as_one_by_one(name, board):
    overlay, place = load_overlay(name), load_board(board)
    others = [overlay, replace(overlay, accumulator_rows=64), load_overlay("tiny")]
    sizes = (
        "rows", "bus_bytes", "buffer_words", "accumulator_rows", "parameter_blocks", "tap_words",
        "weight_tiles", "products_per_dsp",
    )  # fmt: skip
    designs = Designs(*(np.array([getattr(o, size) for o in others]) for size in sizes))
    together = resources.total(designs, place)
    for i, one in enumerate(others):
        alone = resources.total(one, place)
        for kind in resources.KINDS:
            both = np.broadcast_to(getattr(together, kind), 3)[i], getattr(alone, kind)
            assert float(both[0]) == pytest.approx(float(both[1])), kind
        assert replace(designs.overlay(i, one.name)).digest() == one.digest()


def test_ultraram_takes_the_place_of_block_ram():
    overlay = load_overlay("edge")
    with_uram = resources.units(overlay, load_board("KV260"))["buffer"].as_dict()
    without = resources.units(overlay, load_board("ZCU102"))["buffer"].as_dict()
    assert with_uram == {"lut": 0, "ff": 0, "dsp": 0, "bram36": 0, "uram": 48}
    assert without["uram"] == 0
    assert without["bram36"] >= 1.5 * 8 * 1024 / 36


def test_a_dsp_of_two_products_is_half_a_dsp_and_more_luts():
    one, two = resources.array(32, 32, 1).as_dict(), resources.array(32, 32, 2).as_dict()
    assert one["dsp"] == 1024
    assert two["dsp"] == 512
    assert two["lut"] > 2 * one["lut"]


def test_a_fit_adds_up_and_says_what_is_tight():
    fit = resources.fit(load_overlay("edge"), "KV260")
    for kind in resources.KINDS:
        units = sum(float(getattr(u, kind)) for u in fit.units.values())
        assert float(getattr(fit.total, kind)) == pytest.approx(units)
        share = float(getattr(fit.total, kind)) / getattr(fit.available, kind)
        assert fit.utilization[kind] == pytest.approx(share)
    assert fit.fits
    assert [text.split()[0] for text in fit.tight] == ["LUT", "BRAM36"]
    assert fit.as_dict()["total"]["dsp"] == 799


def test_norms_cost_by_method_and_lane():
    edge = replace(load_overlay("edge"), units=("requant", "vector", "lookup", "norm"))
    board = load_board("KV260")
    by = {
        name: resources.row_units(replace(edge, wide_words=1024, norm=name), board)[
            "norm"
        ].as_dict()
        for name in (("pwl",), ("pwl", "table"), ("table",), ("ibert",), ("nnlut",))
    }
    assert by["pwl", "table"]["dsp"] > max(by[("pwl",)]["dsp"], by[("table",)]["dsp"])
    assert by[("ibert",)]["lut"] > 4 * by[("pwl",)]["lut"]  # a divider per Newton step
    assert by[("pwl",)]["dsp"] == 32 * 7 + 8 + 1  # a lane's products, n·squares and sum², a line
    assert not resources.row_units(load_overlay("edge"), board)
    smaller = replace(edge, rows=16, cols=16, wide_words=1024, norm=("pwl",))
    half = resources.row_units(smaller, board)["norm"].as_dict()
    assert half["lut"] < by[("pwl",)]["lut"]


def test_ranges_cost_a_product_per_lane_and_their_own_multiplier_without_attention():
    encoder, board = load_overlay("encoder"), load_board("ZCU104")
    without = resources.row_units(encoder, board)
    there = resources.row_units(replace(encoder, units=(*encoder.units, "ranges")), board)
    ranges = there.pop("ranges").as_dict()
    assert there == without  # an overlay without the unit keeps its size
    assert (ranges["dsp"], ranges["bram36"]) == (32, 0.5)  # 512 magnitudes of 16 bits
    alone = replace(encoder, units=("requant", "vector", "lookup", "norm", "ranges"))
    assert resources.row_units(alone, board)["ranges"].as_dict()["dsp"] == 32 * (1 + 2)


def test_a_packed_cache_costs_a_product_per_byte_and_is_too_much_for_the_decoder_on_kv260():
    decoder, board = load_overlay("decoder"), load_board("KV260")
    with_it = replace(decoder, units=(*decoder.units, "packed_cache"))
    there = resources.row_units(with_it, board)
    packed = there.pop("packed_cache").as_dict()
    assert there == resources.row_units(decoder, board)
    assert packed["dsp"] == 16 * 4  # lanes, words of the operand buffer in a clock
    assert (packed["bram36"], packed["uram"]) == (0, 0)
    assert resources.fit(decoder, board).fits
    assert [over.split()[0] for over in resources.fit(with_it, board).over] == ["LUT"]
    one = replace(with_it, stream_rows=2, weight_ports=1)
    fewer = resources.row_units(one, board)["packed_cache"].as_dict()
    assert fewer["dsp"] == 16
    assert fewer["lut"] < packed["lut"]


def test_ranges_of_tokens_cost_two_products_per_lane_and_a_memory_with_two_ports():
    decoder, board = load_overlay("decoder"), load_board("KV260")
    without = resources.row_units(decoder, board)
    units = (*decoder.units, "token_ranges")
    there = resources.row_units(replace(decoder, units=units), board)
    made = there.pop("token_ranges").as_dict()
    assert there == without
    assert (made["dsp"], made["bram36"]) == (32, 8)  # 512 words of 16 magnitudes, twice
    with pytest.raises(OverlayError, match="LUT"):  # 94 % of it
        resources.check(replace(decoder, units=units), board)


def test_a_zcu104_has_room_for_a_decoder_with_packed_caches_and_ranges_of_tokens():
    decoder, board = load_overlay("decoder"), load_board("ZCU104")
    both = replace(decoder, units=(*decoder.units, "token_ranges", "packed_cache"))
    found = resources.check(both, board)
    assert 0.45 < found.total.as_dict()["lut"] / found.available.as_dict()["lut"] < 0.55


def test_attention_costs_by_method_and_lane():
    encoder, board = load_overlay("encoder"), load_board("ZCU104")
    found = resources.row_units(encoder, board)
    assert list(found) == ["wide", "attention", "norm", "rotate"]
    assert found["wide"].as_dict()["dsp"] == 32 * (4 + 1)  # a scale of 32 bits, a factor of 16
    assert found["rotate"].as_dict()["dsp"] == 32 + 3  # a product per lane; addresses
    assert found["wide"].as_dict()["uram"] == 4 * 8  # 16,384 words of 512 bits
    by = {
        name: resources.row_units(replace(encoder, softmax=name), board)["attention"].as_dict()
        for name in (("pwl",), ("pwl", "table"), ("dlc",))
    }
    assert by["pwl", "table"]["lut"] > by[("pwl",)]["lut"]
    assert by[("pwl",)]["dsp"] == 32 * (1 + 3)  # a line; the division and the shares
    assert by[("dlc",)]["dsp"] == 32 * (4 + 3)
    assert by[("pwl",)]["bram36"] >= 32  # a bank of keys and values per lane


def test_the_shell_of_a_card_is_not_for_us():
    board = load_board("Alveo-U55C")
    assert resources.available(board).lut == board.lut - board.shell_lut
    assert resources.interconnect(board).as_dict()["lut"] == 0
    assert resources.interconnect(load_board("KV260")).as_dict()["lut"] > 0


def test_an_epilogue_that_nobody_shares_is_told_apart():
    overlay, board = load_overlay("tiny"), load_board("Pynq-Z2")
    shared = resources.requantization(overlay)
    apart = resources.requantization(overlay, shared=False)
    assert shared.as_dict()["dsp"] == 4 * overlay.cols
    assert apart.as_dict()["dsp"] == 12 * overlay.cols
    assert apart.as_dict()["bram36"] == shared.as_dict()["bram36"]
    # docs/estimates.md warns of it: then not even the smallest overlay would fit.
    rest = resources.total(overlay, board).dsp - shared.dsp
    assert rest + apart.dsp > board.dsp


def test_the_eie_engine_grows_with_its_pes_and_their_memories():
    board = load_board("KV260")
    small = replace(load_overlay("edge"), engines=("systolic", "eie"), eie_pes=32)
    assert "eie" not in resources.units(replace(small, engines=("systolic",)), board)
    found = resources.units(small, board)["eie"].as_dict()
    twice = resources.units(replace(small, eie_pes=64), board)["eie"].as_dict()
    deep = resources.units(replace(small, eie_entries=65_534), board)["eie"].as_dict()
    assert (found["dsp"], twice["dsp"]) == (32, 64)  # a multiplier per PE
    assert found["lut"] < twice["lut"] < 2 * found["lut"]  # one detector for all
    assert twice["bram36"] == 2 * found["bram36"]
    assert deep["bram36"] > found["bram36"]
    assert found["bram36"] * 36 * 1024 >= 32 * 8 * (small.eie_entries + 2 * small.eie_pointers)


def test_engines_and_decoders_are_counted():
    board = load_board("ZCU102")
    plain = load_overlay("bitfusion")
    plain = replace(plain, engines=("systolic",), formats=("int8",))
    both = replace(plain, engines=("systolic", "fusion"), formats=("int8", "int4"))
    assert not {"fusion", "decoders"} & set(resources.units(plain, board))
    found = resources.units(both, board)
    assert found["fusion"].lut == 64 * engine_costs.CELLS["fusion"][0]
    assert found["decoders"].lut > 0
    more = resources.total(both, board).lut - resources.total(plain, board).lut
    assert more == pytest.approx(found["fusion"].lut + found["decoders"].lut)
    lanes = replace(both, weight_bits=16)
    assert resources.units(lanes, board)["decoders"].dsp == lanes.cols
    assert resources.fit(load_overlay("lab"), "KV260").over  # every engine of all is for simulation


def test_a_wide_weight_stream_takes_what_it_is_wide():
    board, plain = load_board("ZCU104"), load_overlay("decoder")
    narrow = replace(plain, engines=("systolic",), stream_rows=1, weight_ports=1)
    one, all_of_it = resources.units(narrow, board), resources.units(plain, board)
    assert "matvec" not in one
    assert all_of_it["matvec"].dsp == plain.cols * plain.stream_rows
    assert all_of_it["decoders"].lut == 8 * one["decoders"].lut
    per_port = resources.m_axi(8 * plain.bus_bytes).bram36
    assert all_of_it["transfer"].bram36 - one["transfer"].bram36 == pytest.approx(3 * per_port)
    grown = [resources.total(replace(plain, stream_rows=n), board).lut for n in (1, 2, 4, 8)]
    assert grown == sorted(set(grown))
    halves = replace(plain, weight_ports=2)
    assert resources.total(halves, board).lut < resources.total(plain, board).lut
    for name in plain.boards:
        assert resources.fit(plain, name).fits, name
