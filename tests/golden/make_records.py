"""Makes the small records of this folder from MXNet's full ones.

    python tests/golden/make_records.py path/to/a_gan.npz path/to/e_lenet.npz ...

    a_gan         lesson_gan.npz          the lesson's GAN
    b_cgan        conditional_gan.npz     the conditional GAN
    c_dcgan       dcgan.npz               MXNet's DCGAN example
    d_classifier  classifier.npz          the digit classifier
    e_NAME        NAME.npz                vae32, vae2, lenet

First it checks that a record's start and inputs are the ones that its module in ``tests/executor``
draws again from the seed; then it keeps the results alone, the large ones as digests. No seed draws
the start of the classifier: its start and inputs are kept as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "executor"))

import conditional_record
import dcgan_record
import lesson_record
import supervised_record

Drawn = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Source:
    """Where a small record goes, what the seed draws for it (start and inputs; None: nothing), how
    a key of the start begins, and which keys are results."""

    small: Path
    draw: Callable[[], Drawn] | None
    start: str = "init/"
    is_result: Callable[[str], bool] = lesson_record.is_result


def source_of(full: Path) -> Source:
    """The source with that name. SystemExit with the list where there is none."""
    if full.stem == "a_gan":
        return Source(lesson_record.SMALL_RECORD, lesson_record.start_and_inputs)
    if full.stem == "b_cgan":
        return Source(conditional_record.SMALL_RECORD, conditional_record.start_and_inputs)
    if full.stem == "c_dcgan":
        return Source(dcgan_record.SMALL_RECORD, drawn_for_dcgan, "init/", dcgan_record.is_result)
    if full.stem == "d_classifier":
        return Source(lesson_record.SMALL_RECORD.with_name("classifier.npz"), None)
    name = full.stem.removeprefix("e_")
    if name not in supervised_record.NETWORKS:
        raise SystemExit(__doc__)
    draw = supervised_record.NETWORKS[name].start_and_inputs
    small = supervised_record.small_record(name)
    return Source(small, draw, "init/net/", supervised_record.is_result)


def drawn_for_dcgan() -> Drawn:
    """With the scale of its Module's gradients, which the record must have, too."""
    start, inputs = dcgan_record.start_and_inputs()
    return start, inputs | {"module_rescale_grad": np.array(1 / dcgan_record.BATCH)}


def make(full: Path) -> None:
    source = source_of(full)
    with np.load(full) as file:
        recorded = {key: file[key] for key in file.files}
    start, inputs = source.draw() if source.draw else ({}, {})
    drawn = {source.start + key: values for key, values in start.items()} | inputs
    for key, values in drawn.items():
        if not np.array_equal(recorded[key], values):
            raise SystemExit(f"{key} of {full} is not what the seed draws")
    kept = {}
    for key, values in recorded.items():
        if source.is_result(key):
            kept.update(lesson_record.digest(key, values))
        elif source.draw is None:
            kept[key] = values
    np.savez_compressed(source.small, **kept)
    print(f"{source.small}: {source.small.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for argument in sys.argv[1:]:
        make(Path(argument))
