/// How a run ends: the statuses of docs/isa.md; the golden model raises the same.
#pragma once

namespace weft {

enum Status {
  kDone,
  kBadOpcode,
  kBadField,
  kBadBuffer,
  kBadRows,
  kBadTable,
  kBadOrder,
  kBadOverlap,
  kBadMemory,
  kBadStream,
  kBadSparse  // what compressed weights say is found out only while they are used
};

/// The first fault that a unit meets in its weights, and where: the instruction, and the row of the
/// weight stream, counted from the instruction's first. The unit goes on with what it has.
struct Fault {
  int status, instruction, row;
  int current;  // the instruction that runs

  void begin() { status = kDone, instruction = row = current = 0; }
  void raise(int stream_row) {
    if (status != kDone) return;
    status = kBadSparse;
    instruction = current;
    row = stream_row;
  }
};

}  // namespace weft
