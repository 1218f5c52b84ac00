"""Images that are hard to classify: adversarial ones, and corrupted ones. All work on pixels in [0, 1]."""

from .corruptions import CORRUPTIONS, corrupt
from .pgd import pgd

__all__ = ["CORRUPTIONS", "corrupt", "pgd"]
