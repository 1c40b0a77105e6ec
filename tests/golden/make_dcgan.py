"""Makes dcgan.npz from MXNet's full record of the DCGAN example (c_dcgan.npz, 13 MB).

    python tests/golden/make_dcgan.py path/to/c_dcgan.npz

First it checks that the record's start and inputs are the ones that
``tests/executor/dcgan_record.py`` draws again from the seed, and that its Module scaled gradients
by 1 / batch; then it keeps the results alone, the large ones as digests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "executor"))

import dcgan_record
import lesson_record


def main(full: str) -> None:
    with np.load(full) as file:
        recorded = {key: file[key] for key in file.files}
    start, inputs = dcgan_record.start_and_inputs()
    drawn = {f"init/{key}": values for key, values in start.items()} | inputs
    drawn["module_rescale_grad"] = np.array(1 / dcgan_record.BATCH)
    for key, values in drawn.items():
        if not np.array_equal(recorded[key], values):
            raise SystemExit(f"{key} of {full} is not what the seed draws")
    kept = {}
    for key, values in recorded.items():
        if dcgan_record.is_result(key):
            kept.update(lesson_record.digest(key, values))
    small = dcgan_record.SMALL_RECORD
    np.savez_compressed(small, **kept)
    print(f"{small}: {small.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
