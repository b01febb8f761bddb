"""The trainer's tests use one torch thread, as the trainer does: the same bits on every machine."""

from collections.abc import Iterator

import pytest
import torch

from tests.trainer import process

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    """A trainer that a failed test has started ends with it."""
    yield
    for one in process.RUNNING:
        if one.poll() is None:
            one.kill()
            one.wait()
    process.RUNNING.clear()
