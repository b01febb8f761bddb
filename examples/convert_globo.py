"""Globo news clicks as an interchange directory: `python examples/convert_globo.py SOURCE TARGET`.

SOURCE holds clicks_*.csv.gz. There are clicks only, so run it with `join.mode` clicks-only; the click's context is
where and on what it was read. The data (de Souza Pereira Moreira et al., 2018, 2019) is not ours to ship.
"""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import from_to

from contract.interchange import write
from contract.messages import Click

CONTEXT = ("environment", "device", "os", "country", "region", "referrer")


def clicks_of(path: Path) -> Iterator[Click]:
    """Clicks of one file, in its order."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            context = {name: row[name] for name in CONTEXT if row[name]}
            yield Click(row["user_id"], row["item_id"], int(row["ts_ms"]), "click", None, context)


def convert(source: Path, target: Path) -> dict[str, int]:
    """Write clicks and give their count."""
    clicks = (click for path in sorted(source.glob("clicks_*.csv.gz")) for click in clicks_of(path))
    return {"clicks": write(target, "clicks", clicks)}


if __name__ == "__main__":
    from_to.run(__doc__, convert, ["clicks_*.csv.gz"])
