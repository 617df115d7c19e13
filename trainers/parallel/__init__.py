"""One model over several devices, a process each: a rank. All ranks run the same training loop;
what is here decides which rows and which weights each of them has, and adds up what they find.

`World` is this process's place among them; `spread` says how a model lies on the devices:
`Replicated` (DDP), `Sharded` (FSDP2) or `Staged` (a pipeline), and `Spread` on one device.

Promised: what is measured is that of all rows, and the same on every rank; without dropout a model
learns what it learns on one device with the same batches, but for rounding errors. (In a pipeline,
without batch norm, too.)
"""

from trainers.parallel.spread import Spread, spread
from trainers.parallel.world import World, join, leave, world

__all__ = ["Spread", "World", "join", "leave", "spread", "world"]
