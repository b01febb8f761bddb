"""Records of a re-read, taken advance by advance."""

from collections.abc import Iterator
from itertools import chain

from streams.verdicts import Record


class Unread:
    """Records of a re-read that were not taken yet."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records

    def below(self, position: int) -> Iterator[Record]:
        """Take the records below a position; the first one beyond stays unread."""
        for record in self._records:
            if record.offset >= position:
                self._records = chain((record,), self._records)
                return
            yield record
