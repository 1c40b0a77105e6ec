"""Makes lesson_gan.npz from MXNet's full record of the lesson's GAN (a_gan.npz, 9 MB).

    python tests/golden/make_lesson_gan.py path/to/a_gan.npz

First it checks that the record's start and inputs are the ones that
``tests/executor/lesson_record.py`` draws again from the seed; then it keeps the results alone, the
large ones as digests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "executor"))

import lesson_record


def main(full: str) -> None:
    with np.load(full) as file:
        recorded = {key: file[key] for key in file.files}
    start, inputs = lesson_record.start_and_inputs()
    drawn = {f"init/{key}": values for key, values in start.items()} | inputs
    for key, values in drawn.items():
        if not np.array_equal(recorded[key], values):
            raise SystemExit(f"{key} of {full} is not what the seed draws")
    kept = {}
    for key, values in recorded.items():
        if lesson_record.is_result(key):
            kept.update(lesson_record.digest(key, values))
    np.savez_compressed(lesson_record.SMALL_RECORD, **kept)
    print(f"{lesson_record.SMALL_RECORD}: {lesson_record.SMALL_RECORD.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
