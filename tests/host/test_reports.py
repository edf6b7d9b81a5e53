"""Reports and logs of the vendor's tools: real files, and damaged ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from weft.config import load_board
from weft.errors import BuildError, ReportError
from weft.vendor import logs
from weft.vendor.reports import read_synthesis, tables
from weft.vendor.routed import (
    FAILED,
    MET,
    check_timing,
    check_utilization,
    read_timing,
    read_utilization,
    same_part,
)


@pytest.fixture(scope="session")
def reports(shared_data: Path) -> Path:
    return shared_data / "vitis_reports"


def test_vitis_hls_text_report(reports):
    r = read_synthesis(reports / "bert_region_2_csynth.rpt")
    assert (r.version, r.part) == ("2022.1.2", "xcu280-fsvh2892-2L-e")
    assert r.top == "Bert_layer_dataflow_region_2"
    assert (r.target_ns, r.estimated_ns, r.uncertainty_ns) == (3.33, 2.939, 0.90)
    assert r.latency == (602718, 602718)
    assert r.interval == (528822, 528822)
    assert r.pipeline == "dataflow"
    assert r.resources == {
        "BRAM_18K": 50,
        "DSP": 590,
        "FF": 133964,
        "LUT": 143955,
        "URAM": 18,
    }
    assert r.available["LUT"] == 1303680  # of the part, not of one SLR
    assert round(r.estimated_mhz) == 340


def test_vitis_hls_xml(reports):
    r = read_synthesis(reports / "atax_loop_57_1_csynth.xml")
    assert (r.version, r.top) == ("2022.1.2", "stage_N_Pipeline_VITIS_LOOP_57_1")
    assert (r.target_ns, r.uncertainty_ns) == (2.5, 0.68)
    assert r.latency == (393, 393)
    (loop,) = r.loops
    assert loop.name == "VITIS_LOOP_57_1"
    assert (loop.trip_count, loop.latency) == (390, 391)
    assert (loop.pipeline_ii, loop.pipeline_depth) == (1, 3)
    assert r.available["DSP"] == 9024


def test_vivado_hls_xml(reports):
    r = read_synthesis(reports / "hls4ml_myproject_csynth.xml")
    assert (r.version, r.part) == ("2020.1", "xc7z020-clg400-1")
    assert (r.latency, r.interval, r.pipeline) == ((10, 10), (8, 8), "dataflow")
    assert (r.resources["DSP"], r.resources["FF"], r.resources["LUT"]) == (73, 7969, 2532)
    assert r.loops == ()
    assert r.available["DSP"] == 220


def test_every_report_has_a_reader(reports):
    readers = {
        "csynth.xml": read_synthesis,
        "csynth.rpt": read_synthesis,
        "utilization_routed.rpt": read_utilization,
        "vivado_synth.rpt": read_utilization,
        "timing_routed.rpt": read_timing,
    }
    files = [p for p in reports.iterdir() if p.name != "README.md"]
    assert len(files) >= 6
    for path in files:
        (reader,) = (r for ending, r in readers.items() if path.name.endswith(ending))
        assert reader(path)


def test_utilization_after_routing(reports):
    r = read_utilization(reports / "atax_utilization_routed.rpt")
    assert (r.device, r.state) == ("xcu280-fsvh2892-2L-e", "Routed")
    assert r.used == {"lut": 36839, "ff": 43909, "bram36": 1, "uram": 0, "dsp": 243}
    assert r.available["uram"] == 960


def test_utilization_after_synthesis_of_a_7_series(reports):
    r = read_utilization(reports / "hls4ml_vivado_synth.rpt")
    assert r.used == {"lut": 1526, "ff": 2428, "bram36": 0, "uram": 0, "dsp": 66}
    board = load_board("Pynq-Z2")
    for name in ("lut", "ff", "bram36", "dsp", "uram"):
        assert r.available[name] == getattr(board, name), name
    assert check_utilization(reports / "hls4ml_vivado_synth.rpt", board) == r


def test_utilization_is_held_against_the_board(reports):
    path = reports / "hls4ml_vivado_synth.rpt"
    board = load_board("Pynq-Z2")
    with pytest.raises(BuildError, match=r"dsp 66 of 65"):
        check_utilization(path, dataclasses.replace(board, dsp=65))
    with pytest.raises(BuildError, match="7z020clg400-1, but KV260 carries xck26"):
        check_utilization(path, load_board("KV260"))


@pytest.mark.parametrize(
    ("device", "part", "same"),
    [
        ("7z020clg400-1", "xc7z020clg400-1", True),
        ("xcu280-fsvh2892", "xcu280-fsvh2892-2L-e", True),
        ("xck26-sfvc784-2LV-c", "xck26-sfvc784-2LV-c", True),
        ("7z020clg484-1", "xc7z020clg400-1", False),
        ("", "xc7z020clg400-1", False),
    ],
)
def test_names_of_parts(device, part, same):
    assert same_part(device, part) is same


def test_timing(reports, tmp_path):
    path = reports / "atax_timing_routed.rpt"
    r = check_timing(path)
    assert (r.met, r.wns_ns, r.whs_ns, r.failing) == (True, 0.068, 0.034, 0)
    assert (r.tns_ns, r.ths_ns, r.wpws_ns) == (0.0, 0.0, 0.708)
    bad = tmp_path / "timing.rpt"
    bad.write_text(path.read_text().replace(MET, FAILED).replace("  0.068 ", " -0.311 "))
    assert not read_timing(bad).met
    with pytest.raises(BuildError, match=r"not met.*-0\.311 ns.*lower clock_mhz"):
        check_timing(bad)


READERS = {
    "bert_region_2_csynth.rpt": read_synthesis,
    "atax_loop_57_1_csynth.xml": read_synthesis,
    "hls4ml_myproject_csynth.xml": read_synthesis,
    "atax_utilization_routed.rpt": read_utilization,
    "hls4ml_vivado_synth.rpt": read_utilization,
    "atax_timing_routed.rpt": read_timing,
}


@pytest.mark.parametrize("name", READERS)
def test_truncated_reports(name, reports, tmp_path):
    """Cut anywhere, a report is read in full or refused; what it says is never half of it."""
    content = (reports / name).read_bytes()
    read, path = READERS[name], tmp_path / name
    whole = read(reports / name)
    refused = 0
    for cut in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:cut])
        try:
            found = read(path)
        except ReportError:
            refused += 1
        else:
            assert found == whole, cut
    assert refused > 5


@pytest.mark.parametrize("read", [read_synthesis, read_utilization, read_timing])
@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe" * 50, b"<profile>", b"<other/>", b"<profile/>", b"|" * 99, b"| a |\n"],
)
def test_foreign_files(read, content, tmp_path):
    path = tmp_path / "report"
    path.write_bytes(content)
    with pytest.raises(ReportError, match="report"):
        read(path)
    with pytest.raises(ReportError, match="cannot read"):
        read(tmp_path / "missing.rpt")


def test_damaged_figures(reports, tmp_path):
    path = tmp_path / "r"
    for name, old, new in (
        ("atax_loop_57_1_csynth.xml", "<LUT>76", "<LUT>many"),
        ("atax_loop_57_1_csynth.xml", "EstimatedClockPeriod>1.196", "EstimatedClockPeriod>0"),
        ("atax_utilization_routed.rpt", "| 36839 |     0", "| ##### |     0"),
        ("atax_timing_routed.rpt", "      0.068", "      broken"),
    ):
        text = (reports / name).read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ReportError):
            READERS[name](path)


def test_unknown_latency_is_none_and_of_a_range_the_larger_counts(reports, tmp_path):
    text = (reports / "atax_loop_57_1_csynth.xml").read_text()
    text = text.replace("Worst-caseLatency>393", "Worst-caseLatency>undef")
    text = text.replace("<TripCount>390", "<TripCount>1 ~ 390")
    path = tmp_path / "x.xml"
    path.write_text(text)
    r = read_synthesis(path)
    assert r.latency == (393, None)
    assert r.loops[0].trip_count == 390


def test_nested_loops(reports, tmp_path):
    inner = "<inner><TripCount>4</TripCount><Latency>8</Latency><PipelineII>2</PipelineII></inner>"
    text = (reports / "atax_loop_57_1_csynth.xml").read_text()
    path = tmp_path / "x.xml"
    path.write_text(text.replace("<InstanceList>", inner + "<InstanceList>"))
    outer, nested = read_synthesis(path).loops
    assert nested.name == f"{outer.name}/inner"
    assert (nested.pipeline_ii, nested.pipeline_depth) == (2, None)


def test_tables_leave_rules_out():
    text = "x\n+--+--+\n| a| b|\n+--+--+\n| 1| 2|\n+--+--+\n\n| c |\n"
    assert list(tables(text)) == [[["a", "b"], ["1", "2"]], [["c"]]]


# The wording of the messages is that of the tools' logs (Vitis HLS 2022).
LOG = """\
INFO: [HLS 200-1470] Pipelining result : Target II = 1, Final II = 1, Depth = 22, loop 'words'
INFO: [HLS 200-1470] Pipelining result : Target II = 1, Final II = 3, Depth = 9, loop 'table'
INFO: [HLS 200-1470] Pipelining result : Target II = NA, Final II = 2, Depth = 4, loop 'free'
WARNING: [HLS 207-5572] unknown HLS pragma ignored (top.cpp:5:9)
WARNING: [HLS 200-880] The II Violation in module 'compute' (loop 'table'): Unable to enforce ...
WARNING: [HLS 200-885] The II Violation in module 'compute' (loop 'table'): Unable to schedule ...
WARNING: [HLS 207-5572] unknown HLS pragma ignored (top.cpp:5:9)
WARNING: [SYN 201-107] Renaming port name 'in' to 'in_r' to avoid the conflict with HDL keywords.
ERROR: [HLS 200-70] Pre-synthesis failed.
ERROR: [HLS 200-1715] Encountered problem during source synthesis
not a message
"""


def test_log_messages():
    lines = LOG.splitlines()
    found = logs.remarkable(lines)
    assert [m.code for m in found] == [
        "HLS 207-5572",
        "HLS 200-880",
        "HLS 200-885",
        "HLS 200-70",
        "HLS 200-1715",
    ]
    assert found[0].ignored_pragma
    assert "correct its name" in str(found[0])
    assert "partition or reshape" in found[2].remedy
    first = logs.first_error(lines)
    assert first is not None
    assert first.text == "Pre-synthesis failed."
    assert logs.first_error([]) is None


def test_pipelining_results():
    lines = LOG.splitlines()
    assert [p.loop for p in logs.pipelines(lines)] == ["words", "table", "free"]
    (loop,) = logs.missed(lines)
    assert (loop.loop, loop.target, loop.final, loop.depth) == ("table", 1, 3, 9)
