"""Makes classifier.npz from MXNet's full record of the digit classifier (d_classifier.npz, 1.5 MB).

    python tests/golden/make_classifier.py path/to/d_classifier.npz

Start and inputs are kept as they are; of the large results, digests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "executor"))

import lesson_record

SMALL_RECORD = lesson_record.SMALL_RECORD.with_name("classifier.npz")


def main(full: str) -> None:
    kept = {}
    with np.load(full) as recorded:
        for key in recorded.files:
            if lesson_record.is_result(key):
                kept.update(lesson_record.digest(key, recorded[key]))
            else:
                kept[key] = recorded[key]
    np.savez_compressed(SMALL_RECORD, **kept)
    print(f"{SMALL_RECORD}: {SMALL_RECORD.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
