"""A Redis URL may hold a password: what is wrong with one, and how it is shown."""

from urllib.parse import urlsplit, urlunsplit


def fault(url: str) -> str | None:
    """What is wrong with a Redis URL, without a word of it; None if nothing is."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (looked at for the error it raises)
    except ValueError:
        return "has no port from 0 to 65535 (in a user or password, / : @ are written %2F %3A %40)"
    if parts.scheme not in {"redis", "rediss", "unix"}:
        return "must start with redis://, rediss:// or unix://"
    return None


def masked(url: str) -> str:
    """Give a URL with its password and the values of its query replaced, fit for a log line."""
    if fault(url) is not None:
        return "***"
    parts = urlsplit(url)
    if parts.password is None and not parts.query:
        return url
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
    query = "&".join(f"{name}=***" for name in (pair.partition("=")[0] for pair in parts.query.split("&")) if name)
    return urlunsplit(parts._replace(netloc=netloc, query=query))
