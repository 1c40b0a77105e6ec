"""From a graph to calls of kernels, on symbolic arrays.

`graph` has the whole; `nodes` makes the steps and `gradients` the calls of their backward;
`activations` and `batch_norms` let layers take their neighbours' work along; `storage` says which
arrays hold bf16 numbers, `again` which a backward makes anew, and `branches` which calls may run
beside others. All speak of `steps`.
"""

from pygan.lowering.batch_norms import Advice
from pygan.lowering.graph import LoweredGraph

__all__ = ["Advice", "LoweredGraph"]
