"""Ports for servers: nobody else is given them while they wait to be listened on."""

import contextlib
import socket

from headrace import ports


def test_no_outgoing_connection_is_lent_a_port_that_was_chosen() -> None:
    """A chosen port lies outside what the kernel lends, and is chosen once: it is still free when its server starts."""
    chosen = [ports.free() for _ in range(50)]
    assert len(set(chosen)) == 50
    with contextlib.ExitStack() as lent:
        for _ in range(200):
            outgoing = lent.enter_context(socket.socket())
            outgoing.bind((ports.LOOPBACK, 0))
            assert outgoing.getsockname()[1] not in ports.LISTENED


def test_the_preferred_port_is_kept_unless_it_is_taken_or_given() -> None:
    """What listens on a port, and what it was given to before, make `free` choose another."""
    with socket.socket() as busy:
        busy.bind((ports.LOOPBACK, 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert ports.free(port) != port
    assert ports.free(port) == port
    assert ports.free(port, [port]) != port
