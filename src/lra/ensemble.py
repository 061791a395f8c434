"""Train many networks of one architecture as one batched computation."""

from lra.torch.ensemble import Ensemble

__all__ = ["Ensemble"]
