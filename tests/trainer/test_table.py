"""Tables that grow."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.table import START_ACC, Index, Rows
from trainer.tokens import key, token

IDS = st.text("abc", min_size=1, max_size=2)


@given(st.lists(st.tuples(st.sampled_from(["admit", "forget"]), IDS), max_size=60))
def test_index_never_collides_and_reuses_rows(steps: list[tuple[str, str]]) -> None:
    """Every id has a row of its own, freed rows are used before new ones, and a saved index goes on the same way."""
    index, known, most = Index(), set[str](), 0
    for step, text in steps:
        if step == "admit":
            row = index.admit(text)
            known.add(text)
            assert index.get(text) == row
        else:
            assert (index.forget(text) >= 0) == (text in known)
            known.discard(text)
        most = max(most, len(known))
        assert set(index.row_of) == known
        assert len(set(index.row_of.values())) == len(known)
        assert index.rows <= most
    again = Index(index.ids, index.free)
    assert again.row_of == index.row_of
    assert again.admit("new") == index.admit("new")


def test_rows_grow_without_changing() -> None:
    """Growing keeps values and accumulators; new rows are zero."""
    rows = Rows(3, capacity=2)
    rows.values[1], rows.acc[1] = torch.tensor([1.0, 2.0, 3.0]), 0.5
    rows.grow(3)
    assert rows.values.shape[0] >= 3
    assert rows.values[1].tolist() == [1.0, 2.0, 3.0]
    assert float(rows.acc[1]) == 0.5
    assert not rows.values[2:].any()
    assert torch.allclose(rows.acc[2:], torch.tensor(START_ACC))


@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_token_keys_do_not_collide(name: str, value: str, other_name: str, other_value: str) -> None:
    """Two tokens have one key only if they are the same, and a key gives its token back."""
    assert token(key((name, value))) == (name, value)
    assert (key((name, value)) == key((other_name, other_value))) == ((name, value) == (other_name, other_value))
