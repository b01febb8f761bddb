"""How a converter is run: `python examples/convert_NAME.py SOURCE TARGET`."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def run(about: str | None, convert: Callable[[Path, Path], Mapping[str, int]], wants: Sequence[str]) -> None:
    """Convert SOURCE, which must hold files of all the patterns that it `wants`, and print the counts as JSON."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    missing = [pattern for pattern in wants if not any(given.source.glob(pattern))]
    if missing:
        parser.error(f"{given.source} holds no {', no '.join(missing)}")
    print(json.dumps(convert(given.source, given.target)))
