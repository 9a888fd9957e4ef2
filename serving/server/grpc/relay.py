"""The gRPC port's connections: they are passed on to grpc.aio, frame by frame, within limits that grpc.aio lacks.

grpc.aio takes any number of connections, of calls without a message and of bytes that wait. Here each call is seen from
its HEADERS to its end, with the bytes of its message, so that what is scarce goes to those who use it as clients do.
"""

import asyncio
import contextlib
import errno
import glob
import itertools
import logging
import os
import shutil
import socket
import ssl
import tempfile
import time
from typing import Any

import grpc

from graftline.serving.server.addresses import resolve
from graftline.serving.server.grpc.connection import Call, Connection
from graftline.serving.server.limits import ByteBudget, descriptors_for_a_port

_logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
_DESCRIPTORS = 3  # of a connection: the client's socket, and both ends of the one to grpc.aio
MAX_CALLS = 2048  # of all connections. A call without a message takes some 20 KB of grpc.aio.
MESSAGE_SECONDS = 60.0  # for the message of a call to arrive, as on the HTTP port
# Bytes of each message that are not counted, and of one that is large. All large ones together may have twice the bytes
# of the largest message, and the first of them as many again. Smaller ones share half of the budget.
_FREE_BYTES, _LARGE = 64 << 10, 1 << 20
# Seconds between two connections. Each takes 0.8 ms of the event loop, which has other things to do.
_ACCEPT_PAUSE, _FULL_PAUSE = 0.002, 0.005
_READ_BYTES = 256 << 10
_BACKLOG = 1024  # beyond them the system drops a client's first packet, which comes again after 1 s
_PREFIX, _STALE_SECONDS = "graftline-grpc-", 3600
_MAX_FOLDER = 90  # bytes of the path of the unix sockets' folder
_HANDSHAKE_SECONDS = 10.0
_LOOK_SECONDS = 1.0  # between two looks for calls and connections whose time has ended
_IDLE_LOOKS = 1  # without bytes for those that wait, before messages that do not arrive are refused
_DRAIN_STEP = 0.01  # seconds between two looks for calls under way
_UNREAD_SECONDS = 2.0  # in the end, for answers that clients do not read
_PAUSE_SECONDS = 0.05  # when there are no descriptors
# The seconds of work in a second that go to frames that ask for nothing, and how much may come at once.
_FLOOD_RATE, _FLOOD_BURST = 0.1, 0.02
_MAX_HOLD = 1.0  # seconds for which a connection waits after such a frame


def _remove_stale_folders() -> None:
    """Remove the folders of servers that were killed: nobody listens there."""
    for path in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{_PREFIX}*", "grpc")):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            # A younger one may belong to a server that is about to listen.
            if time.time() - os.lstat(path).st_mtime < _STALE_SECONDS:
                continue
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                shutil.rmtree(os.path.dirname(path))


def _make_folder() -> str:
    """Return a folder that no other user may enter. The path of a socket has at most 107 bytes."""
    _remove_stale_folders()
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    if len(os.fsencode(folder)) > _MAX_FOLDER:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")
    return folder


class Relay:
    """Listens when made; passes connections on to the unix socket `path` from `start` to `close`.

    Everything runs in one event loop. Raises OSError when the port cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        budget: ByteBudget,
        max_message: int,
        tls: ssl.SSLContext | None = None,
        message_seconds: float = MESSAGE_SECONDS,
    ) -> None:
        # Every socket is read into it and copied from it at once. asyncio's own way takes 256 KiB for each read.
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self.message_seconds = message_seconds
        self.refusal: tuple[grpc.StatusCode, str] | None = None  # what every new call is answered, in the end
        self._tls = tls
        self._budget = budget
        self._most = max(4, min(MAX_CONNECTIONS, descriptors_for_a_port() // _DESCRIPTORS))
        self.open_calls = 0
        self._held = 0  # bytes of messages whose calls have not ended
        self._max_message = max_message
        self._large: dict[Call, None] = {}  # whose large messages arrive, in the order in which they became large
        self._idle_looks = 0  # for how many looks connections have waited, and no bytes were given back
        self._waiting: dict[Connection, None] = {}  # those that wait for bytes
        self._connections: set[Connection] = set()
        self._hosts: dict[str, str] = {}  # of the clients, by what grpc.aio takes for their address
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._level, self._level_at = _FLOOD_BURST, 0.0
        family, address = resolve(host, port)
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # :: stands for every address
        self._socket = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        # Accepted connections inherit it. asyncio sets it only where a socket knows that its protocol is TCP, and an
        # answer of two frames then waits 40 ms for the client's acknowledgement of the first.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._folder = _make_folder()
        self.path = os.path.join(self._folder, "grpc")

    async def start(self) -> None:
        """Accept connections from now on."""
        self._loop = asyncio.get_running_loop()
        self._run(self._accept())
        self._run(self._look())

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def host_of(self, peer: str) -> str:
        """Return the address of the client that grpc.aio calls `peer`."""
        return self._hosts.get(peer, "::")

    async def drain(self, seconds: float) -> None:
        """Refuse all calls whose message is not there. Return when the others are answered, after `seconds` at most."""
        until = self._loop.time() + seconds
        self.refusal = grpc.StatusCode.UNAVAILABLE, "the model server is shutting down"
        self._socket.close()
        for connection in list(self._connections):
            connection.drain()
        while self._loop.time() < until and any(each.waiting for each in self._connections):
            await asyncio.sleep(_DRAIN_STEP)
        until = min(until, self._loop.time() + _UNREAD_SECONDS)
        while self._loop.time() < until and any(each.busy for each in self._connections):
            await asyncio.sleep(_DRAIN_STEP)

    async def close(self) -> None:
        """Give the port back and close every connection."""
        self._socket.close()
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._connections):
            connection.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        shutil.rmtree(self._folder, ignore_errors=True)

    # Connections

    async def _accept(self) -> None:
        while True:
            try:
                client, address = await self._loop.sock_accept(self._socket)
            except OSError as error:
                if self.refusal:
                    return
                _logger.debug("no connection was accepted: %s", error)
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._close_one()
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            full = len(self._connections) >= self._most
            if full:
                self._close_one()
            connection = Connection(self, address[0].removeprefix("::ffff:"), self._loop)
            self._connections.add(connection)
            self._run(self._open(connection, client))
            await asyncio.sleep(_FULL_PAUSE if full else _ACCEPT_PAUSE)

    async def _open(self, connection: Connection, client: socket.socket) -> None:
        """Take the client's bytes. TLS ends here."""
        seconds = _HANDSHAKE_SECONDS if self._tls else None
        connection.opening = asyncio.current_task()
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, client, ssl=self._tls, ssl_handshake_timeout=seconds
            )
        except (OSError, asyncio.CancelledError):
            _logger.debug("a connection ended before its first byte", exc_info=True)
            client.close()
            self.remove(connection)
        finally:
            connection.opening = None

    def connect(self, connection: Connection) -> None:
        """Give a connection its way to grpc.aio."""
        self._run(self._connect(connection))

    async def _connect(self, connection: Connection) -> None:
        # The name is for `host_of`: grpc.aio knows the peers of unix sockets by their paths.
        name = f"{self._folder}/{next(self._numbers)}"
        backend = socket.socket(socket.AF_UNIX)
        try:
            backend.setblocking(False)
            backend.bind(name)
            os.unlink(name)
            backend.connect(self.path)
            connection.peer = f"unix:{name}"
            self._hosts[connection.peer] = connection.host
            await self._loop.create_unix_connection(lambda: connection.backend, sock=backend)
        except OSError as error:
            _logger.debug("a connection could not be passed on: %s", error)
            backend.close()
            connection.close()

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        self._waiting.pop(connection, None)
        self._hosts.pop(connection.peer, None)

    def _close_one(self) -> None:
        """Close the connection that was of no use for longest.

        Those go first that never had an answer, and last those that wait for one.
        """
        with contextlib.suppress(ValueError):  # there is none
            min(self._connections, key=lambda each: (each.busy, each.answered, each.since)).close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for connection in list(self._connections):
                connection.end_late(self._loop.time() - self.message_seconds)
            self._wake()  # the HTTP port may have given bytes back
            self._idle_looks = self._idle_looks + 1 if self._waiting else 0
            if self._idle_looks > _IDLE_LOOKS:
                self._end_costliest()

    # Calls, bytes and frames

    def make_room(self) -> None:
        """End a call when there are too many: the oldest call of the connection that has most."""
        if self.open_calls > MAX_CALLS:
            most = max(self._connections, key=lambda each: len(each.calls))
            most.refuse(next(iter(most.calls)), grpc.StatusCode.RESOURCE_EXHAUSTED, f"over {MAX_CALLS} calls are open")

    def take(self, connection: Connection, call: Call, size: int) -> bool:
        """Count bytes of a message until its call ends. Return False when the connection must wait for others' end."""
        more = max(0, call.size + size - _FREE_BYTES) - call.counted
        if more > 0:
            if self._held + more > self._most_for(call) or not self._budget.try_take(more):
                self._waiting[connection] = None
                return False
            self._held += more
            call.counted += more
        call.size += size
        return True

    def _most_for(self, call: Call) -> int:
        if call.size <= _LARGE:
            return self._budget.most // 2
        self._large.setdefault(call)
        first = next(iter(self._large)) is call  # it may go on when many have begun and none can end
        return (3 if first else 2) * self._max_message

    def finish(self, call: Call) -> None:
        """Take note that a message is whole, or that its call has ended."""
        self._large.pop(call, None)

    def give_back(self, call: Call) -> None:
        """Give back the bytes of a call that has ended, to the connections that wait for some."""
        self.finish(call)
        if call.counted:
            self._idle_looks = 0
            self._held -= call.counted
            self._budget.give_back(call.counted)
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Let connections go on for as long as there are bytes for them."""
        for connection in list(self._waiting):
            del self._waiting[connection]
            connection.read_again("bytes")
            if connection in self._waiting:
                return

    def _end_costliest(self) -> None:
        """Refuse messages that are held but do not arrive, when others have waited for their bytes.

        Those go first that have held most for longest: bytes times seconds. Half of a largest message becomes free.
        """
        now = self._loop.time()
        calls = [(each, *entry) for each in self._connections for entry in each.arriving() if entry[1].counted]
        calls.sort(key=lambda entry: entry[2].counted * (now - entry[2].since), reverse=True)
        enough = self._held - self._max_message // 2
        for connection, stream, _ in calls:
            if self._held <= enough:
                return
            connection.refuse(stream, grpc.StatusCode.RESOURCE_EXHAUSTED, self._budget.full().message)

    def seconds_to_wait(self, cost: float) -> float:
        """Return for how long a connection must wait after a frame that asks for nothing and took `cost` seconds."""
        now = self._loop.time()
        self._level = min(_FLOOD_BURST, self._level + (now - self._level_at) * _FLOOD_RATE) - cost
        self._level_at = now
        return min(_MAX_HOLD, max(0.0, -self._level / _FLOOD_RATE))
