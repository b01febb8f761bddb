"""KuaiRand-Pure's standard log as an interchange directory: `python examples/convert_kuairand.py SOURCE TARGET`.

SOURCE holds log_standard_*_pure.csv.gz, user_features_pure.csv.gz, video_features_basic_pure.csv.gz. The rules, and
why, stand in examples/kuairand/README.md; the data is KuaiRand (Gao et al., CIKM 2022), CC BY-SA 4.0.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import from_to
from msgspec import Struct

from contract.interchange import write
from contract.messages import Action, Click, Exposure, Item, User

GAP_MS = 30_000  # rows of a user at most this far apart are one request
FLAGS: dict[str, Action] = {"is_click": "click", "is_like": "like", "is_follow": "favourite", "is_forward": "share"}
USER_TEXTS = (
    "user_active_degree",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{n}" for n in range(18)),
)
Row = dict[str, str]


@dataclass(slots=True)
class Request:
    """Rows of one user that were shown together."""

    user_id: str
    tab: str
    ts_ms: int
    last_ms: int
    items: dict[str, None] = field(default_factory=dict)
    actions: list[tuple[str, int, Action]] = field(default_factory=list)  # item, ts_ms, action


def rows_of(path: Path) -> Iterator[Row]:
    """Rows of a gzipped CSV file by column name."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def requests_of(rows: Iterable[Row]) -> list[Request]:
    """Log rows grouped into requests, in the order of their first rows.

    A row joins its user's request when it follows that user's row before within GAP_MS and on the same tab.
    """
    made: list[Request] = []
    current: dict[str, Request] = {}
    for row in rows:
        ts_ms, user, item = int(row["time_ms"]), row["user_id"], row["video_id"]
        request = current.get(user)
        if request is None or ts_ms - request.last_ms > GAP_MS or row["tab"] != request.tab:
            request = current[user] = Request(user, row["tab"], ts_ms, ts_ms)
            made.append(request)
        request.last_ms = ts_ms
        request.items[item] = None  # shown again within the request: stays at its first position
        request.actions += [(item, ts_ms + 1, action) for flag, action in FLAGS.items() if row[flag] == "1"]
    return made


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Rows without exact repeats, by time (ties keep the log's order)."""
    by_content = {tuple(row.values()): row for row in rows}
    return sorted(by_content.values(), key=lambda row: int(row["time_ms"]))


def user_features(row: Row) -> dict[str, Any]:
    """Features of a user: categories as strings, flags as booleans; unknown values are left out."""
    features: dict[str, Any] = {name: _category(row[name]) for name in USER_TEXTS if row[name]}
    flags = {name: row[name] for name in ("is_live_streamer", "is_video_author")}
    return features | {name: value == "1" for name, value in flags.items() if value in {"0", "1"}}


def item_features(row: Row) -> dict[str, Any]:
    """Features of a video: tags as a list, duration as a number; unknown values are left out."""
    width, height = float(row["server_width"] or 0), float(row["server_height"] or 0)
    features: dict[str, Any] = {
        "author_id": row["author_id"],
        "tag": row["tag"].split(",") if row["tag"] else [],
        "video_type": row["video_type"],
        "upload_type": row["upload_type"],
        "upload_dt": row["upload_dt"],
        "music_type": _category(row["music_type"]),
        "duration_ms": int(float(row["video_duration"])) if row["video_duration"] else None,
        "orientation": "portrait" if height > width else "landscape" if width > height else "square",
    }
    return {name: value for name, value in features.items() if value not in (None, "", [], "UNKNOWN")}


def convert(source: Path, target: Path) -> dict[str, int]:
    """Write the four files and give their counts."""
    raw = [row for path in sorted(source.glob("log_standard_*_pure.csv.gz")) for row in rows_of(path)]
    log = distinct(raw)
    requests = requests_of(log)
    exposures, clicks = [], []
    for number, request in enumerate(requests):
        request_id = f"r{number}"
        exposures.append(
            Exposure(request_id, request.user_id, request.ts_ms, list(request.items), {"tab": request.tab})
        )
        clicks += [Click(request.user_id, i, ts_ms, action, request_id) for i, ts_ms, action in request.actions]
    start_ms = min(request.ts_ms for request in requests)
    seen = {row["user_id"] for row in log}
    items = [
        Item(row["video_id"], start_ms, item_features(row))
        for row in rows_of(source / "video_features_basic_pure.csv.gz")
    ]
    users = [
        User(row["user_id"], start_ms, user_features(row))
        for row in rows_of(source / "user_features_pure.csv.gz")
        if row["user_id"] in seen
    ]
    files: dict[str, Sequence[Struct]] = {"exposures": exposures, "clicks": clicks, "items": items, "users": users}
    counts = {"raw rows": len(raw), "raw is_click": sum(row["is_click"] == "1" for row in raw), "rows": len(log)}
    counts |= {topic: write(target, topic, messages) for topic, messages in files.items()}
    return counts | dict(Counter(click.action for click in clicks))


def _category(text: str) -> str:
    return text.removesuffix(".0")


if __name__ == "__main__":
    tables = ["user_features_pure.csv.gz", "video_features_basic_pure.csv.gz"]
    from_to.run(__doc__, convert, ["log_standard_*_pure.csv.gz", *tables])
