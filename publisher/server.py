"""The recall server's process: a thread that follows, and uvicorn that answers.

The port is taken with SO_REUSEPORT, so that a second server process may share it.
"""

import signal
import socket
import threading

import faiss
import uvicorn
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contract import log
from contract.redis import Client, connect
from contract.settings import Settings
from publisher.app import create_app
from publisher.follow import Follower
from publisher.store import Store

REDIS_TIMEOUT_MS = 250  # of one call while a request waits


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    log.set_up("server", settings.log_level)
    faiss.omp_set_num_threads(1)  # many requests at once, not one request fast
    follower = Follower(settings, Store(quick_redis(settings), settings.names))
    stop, failed = threading.Event(), []
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, follower), log_level="warning", access_log=False, timeout_graceful_shutdown=5
        )
    )

    def follow() -> None:
        try:
            follower.follow(stop)
        except BaseException as error:
            failed.append(error)
            server.should_exit = True
            raise

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)  # uvicorn raises what it caught once more when it is done
    thread = threading.Thread(target=follow, name="follow", daemon=True)
    thread.start()
    with listening(settings.server.host, settings.server.port) as bound:
        log.get().info("listening", host=settings.server.host, port=settings.server.port)
        try:
            server.run(sockets=[bound])
        finally:
            stop.set()
            thread.join(10)
            follower.close()
    if failed:
        raise failed[0]


def listening(host: str, port: int) -> socket.socket:
    """Socket that listens on a port which other servers of ours may share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns off Nagle on what it accepts; without, answers wait 40 ms for an ACK.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def quick_redis(settings: Settings) -> Client:
    """Client that gives up early: a request has a second in all, and a degraded answer beats a late one."""
    client = connect(settings.redis.model_copy(update={"timeout_ms": min(settings.redis.timeout_ms, REDIS_TIMEOUT_MS)}))
    if isinstance(client, Redis):
        client.set_retry(Retry(NoBackoff(), 1))  # one more try, for a connection that Redis closed while it was idle
    return client
