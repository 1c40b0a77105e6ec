"""Executors: a symbol bound to shapes, memory and a device.

Everything is decided at bind time: the calls, the memory of every array, the workspace. A step
then runs prepared calls on fixed memory and allocates nothing on the device.

`executor` has the class, `options` its keywords for those that hand them on, `scopes` its defaults
for all that is bound inside. Beneath them: `settings` and `requests` check what a user asks for,
`given` the arrays that a user hands over; `launches` says how a device launches calls; `lifetimes`,
`planner`, `blocks`, `memory` and `lending` give every array its place; `passes` and `programs`
prepare the calls.
"""

from pygan.executor.executor import Executor
from pygan.executor.memory_use import MemoryUse
from pygan.executor.scopes import cooperative_scope, lean_scope, precision_scope, storage_scope

__all__ = [
    "Executor",
    "MemoryUse",
    "cooperative_scope",
    "lean_scope",
    "precision_scope",
    "storage_scope",
]
