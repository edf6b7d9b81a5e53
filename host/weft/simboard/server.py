"""A stand-in for the PYNQ.remote server: a simulated board behind its gRPC protocol.

    python -m weft.simboard.server [PORT]        then: Pynq(address="127.0.0.1:PORT")

Unmodified pynq connects to it. Importing this module needs pynq.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from pynq.remote import (
    buffer_pb2,
    buffer_pb2_grpc,
    mmio_pb2,
    mmio_pb2_grpc,
    remote_device_pb2,
    remote_device_pb2_grpc,
)

from weft.config import load_board
from weft.simboard.board import Board

FIRMWARE = "/lib/firmware/"
MANAGER = "/sys/class/fpga_manager/fpga0/"


class Server:
    """Serves a board on 127.0.0.1; `port` 0 takes a free one. `calls` counts requests by name."""

    def __init__(self, board: Board, port: int = 0) -> None:
        self.board = board
        self.calls: dict[str, int] = {}
        pool = futures.ThreadPoolExecutor(4, "simboard-server")
        self._server = grpc.server(pool, interceptors=(_Counter(self.calls),))
        remote_device_pb2_grpc.add_RemoteDeviceServicer_to_server(_Files(board), self._server)
        mmio_pb2_grpc.add_MmioServicer_to_server(_Mmio(board), self._server)
        buffer_pb2_grpc.add_RemoteBufferServicer_to_server(_Buffers(board), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def address(self) -> str:
        """What `Pynq(address=...)` takes."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Cuts all connections."""
        self._server.stop(None).wait()

    def wait(self) -> None:
        """Serves until it is stopped."""
        self._server.wait_for_termination()


class _Counter(grpc.ServerInterceptor):  # type: ignore[misc]
    def __init__(self, calls: dict[str, int]) -> None:
        self._calls = calls

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        name = details.method.rpartition(".")[2]
        self._calls[name] = self._calls.get(name, 0) + 1
        return continuation(details)


class _Files(remote_device_pb2_grpc.RemoteDeviceServicer):  # type: ignore[misc]
    """The board's files; writing a name to the FPGA manager configures the logic."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._files = {
            "/proc/version": f"Linux version 6.12 ({board.arch})".encode(),
            "/proc/device-tree/chosen/pynq_board": board.name.encode() + b"\0",
            MANAGER + "state": b"operating",
            MANAGER + "flags": b"0",
        }

    def existsfile(self, request: Any, context: Any) -> Any:
        found = request.file_path in self._files or request.file_path == "/proc/meminfo"
        return remote_device_pb2.ExistsFileResponse(exists=found)

    def readfile(self, request: Any, context: Any) -> Iterator[Any]:
        path = request.file_path
        if path == "/proc/meminfo":
            data = self._board.read_file(path)
        elif path in self._files:
            data = self._files[path]
        else:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{path}: no such file")
        yield remote_device_pb2.ReadFileResponse(data=data)

    def writefile(self, requests: Iterator[Any], context: Any) -> Any:
        path, data = "", b""
        for request in requests:
            path, data = request.file_path, data + request.data
        self._files[path] = data
        if path == MANAGER + "firmware":
            words = np.frombuffer(self._files[FIRMWARE + data.decode()], "<u4")
            try:
                self._board.configure(words.byteswap().tobytes())
            except OSError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return remote_device_pb2.WriteFileResponse()

    def set_bitstream_attrs(self, request: Any, context: Any) -> Any:
        return remote_device_pb2.SetBitstreamAttrsResponse(status=True)


class _Mmio(mmio_pb2_grpc.MmioServicer):  # type: ignore[misc]
    """Registers."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._bases: dict[str, int] = {}
        self._numbers = itertools.count()

    def get_mmio(self, request: Any, context: Any) -> Any:
        name = str(next(self._numbers))
        self._bases[name] = request.base_addr
        return mmio_pb2.GetMmioResponse(status=True, mmio_id=name)

    def read(self, request: Any, context: Any) -> Any:
        address = self._bases[request.mmio_id] + request.offset
        try:
            data = self._board.read_registers(address, max(4, request.length))
        except (OSError, RuntimeError) as error:
            return mmio_pb2.ReadResponse(msg=str(error))
        word = data[:4]  # the protocol's field holds 32 bits: signed in pynq 3, unsigned in 4
        try:
            return mmio_pb2.ReadResponse(status=True, data=int.from_bytes(word, "little"))
        except ValueError:
            signed = int.from_bytes(word, "little", signed=True)
            return mmio_pb2.ReadResponse(status=True, data=signed)

    def write(self, request: Any, context: Any) -> Any:
        address = self._bases[request.mmio_id] + request.offset
        try:
            self._board.write_registers(address, request.data)
        except (OSError, RuntimeError) as error:
            return mmio_pb2.WriteResponse(msg=str(error))
        return mmio_pb2.WriteResponse(status=True)


class _Buffers(buffer_pb2_grpc.RemoteBufferServicer):  # type: ignore[misc]
    """Contiguous memory. A buffer that a client did not free stays until the server ends."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._buffers: dict[str, Any] = {}
        self._numbers = itertools.count()

    def allocate(self, request: Any, context: Any) -> Any:
        try:
            buffer = self._board.allocate((max(1, request.size),), np.dtype(np.uint8))
        except (OSError, RuntimeError) as error:
            return buffer_pb2.AllocateResponse(msg=str(error))
        name = str(next(self._numbers))
        self._buffers[name] = buffer
        return buffer_pb2.AllocateResponse(buffer_id=name)

    def write(self, requests: Iterator[Any], context: Any) -> Any:
        at = 0
        for request in requests:
            part = np.frombuffer(request.data, np.uint8)
            self._buffers[request.buffer_id][at : at + len(part)] = part
            at += len(part)
        return buffer_pb2.BufferWriteResponse()

    def read(self, request: Any, context: Any) -> Iterator[Any]:
        yield buffer_pb2.BufferReadResponse(data=self._buffers[request.buffer_id].tobytes())

    def flush(self, request: Any, context: Any) -> Any:
        self._buffers[request.buffer_id].flush()
        return buffer_pb2.FlushResponse()

    def invalidate(self, request: Any, context: Any) -> Any:
        self._buffers[request.buffer_id].invalidate()
        return buffer_pb2.InvalidateResponse()

    def freebuffer(self, request: Any, context: Any) -> Any:
        buffer = self._buffers.pop(request.buffer_id, None)
        if buffer is not None:
            buffer.freebuffer()
        return buffer_pb2.FreeBufferResponse()

    def physical_address(self, request: Any, context: Any) -> Any:
        address = self._buffers[request.buffer_id].device_address
        return buffer_pb2.AddressResponse(address=address)


def main() -> None:
    """Serves a simulated KV260 until it is interrupted."""
    server = Server(Board(load_board("KV260")), int(sys.argv[1]) if len(sys.argv) > 1 else 7967)
    print(server.address, flush=True)
    server.wait()


if __name__ == "__main__":
    main()
