"""Makes vae32.npz, vae2.npz or lenet.npz from MXNet's full record of that network.

    python tests/golden/make_supervised.py path/to/e_vae32.npz

First it checks that the record's start and inputs are the ones that
``tests/executor/supervised_record.py`` draws again from the seed; then it keeps the results alone,
the large ones as digests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "executor"))

import lesson_record
import supervised_record


def main(full: str) -> None:
    name = Path(full).stem.removeprefix("e_")
    with np.load(full) as file:
        recorded = {key: file[key] for key in file.files}
    start, inputs = supervised_record.NETWORKS[name].start_and_inputs()
    drawn = {f"init/net/{key}": values for key, values in start.items()} | inputs
    for key, values in drawn.items():
        if not np.array_equal(recorded[key], values):
            raise SystemExit(f"{key} of {full} is not what the seed draws")
    kept = {}
    for key, values in recorded.items():
        if supervised_record.is_result(key):
            kept.update(lesson_record.digest(key, values))
    path = supervised_record.small_record(name)
    np.savez_compressed(path, **kept)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
