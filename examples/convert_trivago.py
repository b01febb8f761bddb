"""Trivago's Rio clickouts as an interchange directory: `python examples/convert_trivago.py SOURCE TARGET`.

SOURCE holds interaction_dataset.csv.gz and item_metadata.csv. A clickout's `impressions` are the exposure, its
`item_id` the click; clickouts of one session on the same list, one after another within WINDOW_MS, share one exposure
at the first one's time. Other actions carry no list and are left out. The data is not ours to ship.
"""

import ast
import csv
import gzip
from pathlib import Path
from typing import Any

import from_to

from contract.interchange import write
from contract.messages import MAX_FEATURE_VALUES, Click, Exposure, Item

WINDOW_MS = 1_800_000  # join.window_ms by default: a later click would not match the list's first showing


def item_features(row: dict[str, str]) -> dict[str, Any]:
    """Properties of a hotel as a list."""
    return {"properties": row["properties"].split("|")[:MAX_FEATURE_VALUES]}


def convert(source: Path, target: Path) -> dict[str, int]:
    """Write exposures, clicks and items and give their counts."""
    with gzip.open(source / "interaction_dataset.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["action_type"] == "clickout item"]
    rows.sort(key=lambda row: int(row["timestamp"]))
    exposures: list[Exposure] = []
    clicks: list[Click] = []
    current: dict[str, Exposure] = {}  # of each session
    for row in rows:
        ts_ms, session = int(row["timestamp"]) * 1000, row["session_id"]
        shown = list(dict.fromkeys(ast.literal_eval(row["impressions"])))
        exposure = current.get(session)
        if exposure is None or exposure.items != shown or ts_ms + 1 - exposure.ts_ms > WINDOW_MS:
            exposure = current[session] = Exposure(f"{session}-{len(exposures)}", row["user_id"], ts_ms, shown)
            exposures.append(exposure)
        clicks.append(Click(row["user_id"], row["item_id"], ts_ms + 1, "click", exposure.request_id))
    start_ms = exposures[0].ts_ms
    with (source / "item_metadata.csv").open(encoding="utf-8", newline="") as metadata:
        items = [Item(row["item_id"], start_ms, item_features(row)) for row in csv.DictReader(metadata)]
    return {
        "exposures": write(target, "exposures", exposures),
        "clicks": write(target, "clicks", clicks),
        "items": write(target, "items", items),
    }


if __name__ == "__main__":
    from_to.run(__doc__, convert, ["interaction_dataset.csv.gz", "item_metadata.csv"])
