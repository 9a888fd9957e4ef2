"""The HTTP port: accepts connections, and decides which of them goes when places, descriptors or bytes are scarce.

`ModelServer` binds the port before TensorFlow is imported. The application (ASGI) gets whole requests, within the
limits; `routes` gives them a meaning. docs/architecture.md says what was measured before h11 was chosen.
"""

import asyncio
import errno
import logging
import select
import socket
import ssl
from collections.abc import Iterable

from graftline.serving.server.addresses import resolve
from graftline.serving.server.http.connection import FREE_BYTES, Connection, State
from graftline.serving.server.http.messages import Application, RefusedError
from graftline.serving.server.limits import ByteBudget, descriptors_for_a_port
from graftline.serving.server.options import MAX_REQUEST_BYTES

_logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
# Connections that wait to be accepted. Beyond them the system drops a client's first packet: it comes again after 1 s.
_BACKLOG = 1024
# A connection that has just been opened or answered: its next request may be on its way.
_FRESH_SECONDS = 0.5
# For a request to arrive, from its first byte to its last; for its answer to leave; for a client to send the next.
REQUEST_SECONDS = 60.0
# After the stop, for requests that are on their way on a kept connection: they get an answer in place of a reset.
_DRAIN_LINGER_SECONDS = 0.5
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 0.005  # when there are no descriptors, and until a closed connection has given back its own


class HttpServer:
    """Listens when made; answers from `start` to `close`, which are run in one event loop.

    A request counts as answered for the application (its last `send` returns) when the answer has left. Raises OSError
    when the port cannot be had.
    """

    def __init__(
        self,
        application: Application,
        host: str,
        port: int,
        max_body: int = MAX_REQUEST_BYTES,
        request_seconds: float = REQUEST_SECONDS,
        budget: ByteBudget | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.application = application
        self.max_body = max_body
        self.request_seconds = request_seconds
        self.tls = tls
        self.draining = False
        self._budget = budget or ByteBudget(8 * max_body)
        self._most = min(MAX_CONNECTIONS, descriptors_for_a_port())
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], Connection] = {}
        # Those of each state, the one that has been in it longest first: a new client of a flood costs no search.
        self._in_state: dict[State, dict[Connection, None]] = {state: {} for state in State}
        self._holders: set[Connection] = set()  # those whose bytes the budget counts
        family, address = resolve(host, port)
        self._socket = socket.socket(family)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
            self._socket.bind(address)
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])  # the port in use, also when 0 was asked for

    async def start(self) -> None:
        """Answer from now on."""
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def drain(self, seconds: float) -> None:
        """Take no new connection. Return when all have ended, after `seconds` at most.

        A client that has sent no request, or a part of one, is waited for for half a second.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        await self._stop_listening()
        await self._wait(min(seconds, _DRAIN_LINGER_SECONDS))
        await self._end(each for each in self._connections.values() if each.state <= State.ARRIVING)
        await self._wait(until - loop.time())

    async def close(self) -> None:
        """Give the port back and close every connection."""
        await self._stop_listening()
        await self._end(self._connections.values())

    async def _stop_listening(self) -> None:
        self.draining = True
        if self._accepting:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        self._socket.close()

    async def _wait(self, seconds: float) -> None:
        if self._connections and seconds > 0:
            await asyncio.wait(list(self._connections), timeout=seconds)

    async def _end(self, connections: Iterable[Connection]) -> None:
        ended = list(connections)
        for connection in ended:
            connection.close()
        if ended:
            await asyncio.wait([connection.task for connection in ended])
        await asyncio.sleep(0)  # asyncio closes the sockets after this turn of the loop

    # Places and descriptors

    async def _accept(self) -> None:
        """Accept connections without end.

        asyncio's own server waits a second when the process has no descriptor left, for as long as that lasts.
        """
        loop = asyncio.get_running_loop()
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        while True:
            try:
                client, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    if waiting.poll(0):  # Linux asks for the descriptor before it looks whether a client waits
                        self._close_one()
                    await asyncio.sleep(_PAUSE_SECONDS)
            else:
                if len(self._connections) < self._most or self._close_one():
                    self._open(client)
                else:
                    client.close()
            await asyncio.sleep(0)  # an accepted connection, and one that was closed, get their turn

    def _open(self, client: socket.socket) -> None:
        client.setblocking(False)
        connection = Connection(self, client)
        self._connections[connection.task] = connection
        connection.task.add_done_callback(lambda task: self._connections.pop(task).dispose())

    def _close_one(self) -> bool:
        """Close the connection that matters least, and return whether there was one.

        The order is that of `State`; among those of one state the one goes first that has been in it longest. A fresh
        one counts as one whose request arrives: otherwise each client would be closed for the next one.
        """
        longest = [
            next(iter(waiting)) for state, waiting in self._in_state.items() if waiting and state < State.ANSWERING
        ]
        if not longest:
            return False
        idle_since = asyncio.get_running_loop().time() - _FRESH_SECONDS

        def order(each: Connection) -> tuple[State, float]:
            return max(each.state, State.ARRIVING) if each.since > idle_since else each.state, each.since

        min(longest, key=order).close()
        return True

    def enter(self, connection: Connection, state: State | None) -> None:
        """Note that a connection comes into a state; None: it ends."""
        self._in_state[connection.state].pop(connection, None)
        if state is not None:
            self._in_state[state][connection] = None

    # Bytes

    def hold(self, connection: Connection, size: int) -> None:
        """Count the bytes that the server holds of a request that arrives or an answer that leaves.

        All of these share half of the budget, and may have it until requests that are whole need it. When it is full,
        the connections go that have held most for longest: bytes times seconds. So slow clients, many or few, make way
        for one that sends at its usual speed. Raises RefusedError when `connection` itself must go.
        """
        more = max(0, size - FREE_BYTES) - connection.held
        while more > 0 and not self._take(connection, more):
            rivals = self._rivals(connection.held + more)
            costliest = max(rivals, key=lambda each: each.cost, default=connection)
            refused = RefusedError(503, self._budget.full().message)
            if costliest is connection:
                raise refused
            costliest.refuse(refused.answer)
        connection.held += max(0, more)
        if connection.held:
            self._holders.add(connection)

    def _take(self, connection: Connection, more: int) -> bool:
        waiting = sum(each.held for each in self._holders if each.state < State.ANSWERING)
        return waiting + more <= self._budget.most // 2 and self._budget.try_grow(connection.held, more)

    def _rivals(self, size: int) -> list[Connection]:
        """Return the connections that may make room: for a large request other large ones, while there are any."""
        waiting = [each for each in self._holders if each.state < State.ANSWERING]
        large = [each for each in waiting if self._budget.is_large(each.held)]
        return large if large and self._budget.is_large(size) else waiting

    def release(self, connection: Connection) -> None:
        """Give back all bytes of a connection."""
        self._holders.discard(connection)
        self._budget.release(connection.held)
        connection.held = 0
