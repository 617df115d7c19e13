"""Training many models of one shape as one program, a lane each.

`Stack` is what trains; `noise` gives each lane its own random numbers; `layers` and `optim` are
tables of what can be stacked; `measure` finds how many lanes pay.

Promised: a lane is the same, to the last bit, whatever else is in its stack; solo is the stack of
one. In float64 it equals ``torch.optim`` on the plain module to 1e-10. As in Wang et al. 2021
(*Horizontally Fused Training Array*), but each lane keeps its own settings and randomness.
"""

import os

# Without this MKL's batched products depend, in their last digits, on how many matrices there are
# and on where they lie; with it they are as fast. It is read once, before the first product.
os.environ.setdefault("MKL_CBWR", "AUTO")

from trainers.lanes.stack import Lane, Said, Stack  # noqa: E402

__all__ = ["Lane", "Said", "Stack"]
