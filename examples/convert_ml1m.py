"""MovieLens 1M as an interchange directory: `python examples/convert_ml1m.py SOURCE TARGET`.

SOURCE holds ratings.dat.gz (or ratings.dat), movies.dat, users.dat. A rating of 4 or 5 is a click; there are no
exposures, so run it with `join.mode` clicks-only. The data (Harper and Konstan, 2015) is not ours to ship.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import from_to

from contract.interchange import open_lines, write
from contract.messages import Click, Item, User

MIN_RATING = 4


def fields_of(path: Path) -> Iterator[list[str]]:
    """Fields of each line of a `::` separated file in Latin-1."""
    with open_lines(path) as file:
        for line in file:
            yield line.decode("latin-1").rstrip("\r\n").split("::")


def movie_features(title: str, genres: str) -> dict[str, Any]:
    """Genres as a list, and the year that ends the title."""
    year = re.search(r"\((\d{4})\)$", title)
    return {"genre": genres.split("|")} | ({"year": year[1]} if year else {})


def convert(source: Path, target: Path) -> dict[str, int]:
    """Write clicks, items and users and give their counts."""
    ratings = next(path for name in ("ratings.dat.gz", "ratings.dat") if (path := source / name).exists())
    clicks = [
        Click(user, movie, int(seconds) * 1000)
        for user, movie, rating, seconds in fields_of(ratings)
        if int(rating) >= MIN_RATING
    ]
    start_ms = min(click.ts_ms for click in clicks)
    items = [
        Item(movie, start_ms, movie_features(title, genres))
        for movie, title, genres in fields_of(source / "movies.dat")
    ]
    users = [
        User(user, start_ms, {"gender": gender, "age": age, "occupation": occupation})
        for user, gender, age, occupation, _zip in fields_of(source / "users.dat")
    ]
    return {
        "clicks": write(target, "clicks", clicks),
        "items": write(target, "items", items),
        "users": write(target, "users", users),
    }


if __name__ == "__main__":
    from_to.run(__doc__, convert, ["ratings.dat*", "movies.dat", "users.dat"])
