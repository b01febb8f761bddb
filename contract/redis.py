"""The Redis edge that more than one room uses: one way to connect, and to say clearly that it does not answer."""

from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from contract.errors import UnreachableError
from contract.redis_url import masked
from contract.settings import Redis

Client = redis.Redis | RedisCluster


def connect(settings: Redis) -> Client:
    """Client for a URL (binary answers); does not touch the network before the first call."""
    more: dict[str, Any] = {
        "socket_timeout": settings.timeout_ms / 1000,
        "socket_connect_timeout": settings.timeout_ms / 1000,
    }
    url = settings.url.get_secret_value()
    if settings.ca_location and url.startswith("rediss://"):
        more["ssl_ca_certs"] = str(settings.ca_location)
    if settings.cluster:
        return RedisCluster.from_url(url, **more)
    return redis.Redis.from_url(url, retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2), **more)


def reach(settings: Redis) -> Client:
    """Client of a Redis that answers; raises UnreachableError naming what to check."""
    client = connect(settings)
    try:
        client.ping()
    except redis.RedisError as error:
        raise UnreachableError(
            f"Redis at {masked(settings.url.get_secret_value())} does not answer ({type(error).__name__}): "
            "check that it runs (`headrace up`), --redis-url and its password"
        ) from None
    return client
