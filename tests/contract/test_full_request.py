"""Requests for a full update: one at a time, whole or not at all."""

from pathlib import Path

from contract.full_request import NAME, FullRequest, leave, look, take


def test_one_request_lies_there_until_it_is_taken(tmp_path: Path) -> None:
    """The first one is kept, a second is refused; after it is taken there is room."""
    root, first = tmp_path / "full", FullRequest("a", dry_run=True, day="2022-04-24", partition=[0, 1], offset=[7, 9])
    assert look(root) is None
    assert leave(root, first)
    assert not leave(root, FullRequest("b"))
    assert look(root) == first
    assert [path.name for path in root.iterdir()] == [NAME]
    take(root)
    take(root)
    assert look(root) is None
    assert leave(root, FullRequest("b"))


def test_what_cannot_be_read_is_no_request(tmp_path: Path) -> None:
    """Garbage, or offsets without partitions, stops no trainer: it goes."""
    for garbage in (b"\xc1", b"", b"\x80"):
        (tmp_path / NAME).write_bytes(garbage)
        assert look(tmp_path) is None
        assert not (tmp_path / NAME).exists()
    assert leave(tmp_path, FullRequest("a", partition=[1], offset=[]))
    assert look(tmp_path) is None
    assert not (tmp_path / NAME).exists()
