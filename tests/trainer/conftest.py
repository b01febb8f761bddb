"""The trainer's tests use one torch thread, as the trainer does: the same bits on every machine."""

import torch

torch.set_num_threads(1)
