"""Training many models of one shape as one program, a lane each.

`Stack` is what trains; `noise` gives each lane its own random numbers; `layers` and `optim` are
tables of what can be stacked; `measure` finds how many lanes pay.

Promised: a lane is the same, to the last bit, whatever else is in its stack; solo is the stack of
one. (With convolutions a lane alone may differ by rounding errors, see `images`.) In float64 it
equals ``torch.optim`` on the plain module to 1e-10. As in Wang et al. 2021 (*Horizontally Fused
Training Array*), but each lane keeps its own settings and randomness.
"""

import contextlib
import ctypes
import os

# Without this MKL's batched products depend, in their last digits, on how many matrices there are
# and on where they lie; with it they are as fast. It is read once, before the first product.
os.environ.setdefault("MKL_CBWR", "AUTO")

# A step of many lanes takes and frees tens of megabytes. Where glibc gives them back to the system
# each time, getting them anew takes a quarter of the time of convolutions: up to 256 MB are kept.
with contextlib.suppress(OSError, AttributeError):  # of another C library
    _libc = ctypes.CDLL(None)
    _libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: blocks of up to 32 MB are of what is kept
    _libc.mallopt(-1, 2**28)  # M_TRIM_THRESHOLD

from trainers.lanes.stack import Lane, Said, Stack  # noqa: E402

__all__ = ["Lane", "Said", "Stack"]
