"""The systems that ``pygan.training.run`` trains, by the name of their command.

A system is a model, its settings, and a report.

model(device, images, settings): ``data`` (``ResidentImages``), ``batches_done``, ``start_epoch``,
``step``, ``losses_full``, ``read_losses`` (dataclasses with ``batch`` and ``text()``),
``state_dict`` and ``load_state_dict``; ``recording``, a ``Recording``, which replays steps from a
CUDA graph. settings: a frozen dataclass with ``batch_size``, ``seed`` and ``as_dict()``.
report(model, where): ``samples``, ``measure``, ``page``, ``curves`` and ``result``, as
``GanReport`` has them. load(where, settings): the images to train on. watch(model): lines to print
after a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pygan.data import ImageSet, load_digits, load_train_and_test
from pygan.training.anomaly import (
    AnomalyClassifier,
    load_digits_but_3,
    load_normal_digits,
)
from pygan.training.anomaly import ClassifierReport as AnomalyReport
from pygan.training.autoencoder import (
    AnomalyVae,
    AutoencoderReport,
    PenalisedAutoencoder,
    PlainAutoencoder,
    Vae2,
    Vae32,
)
from pygan.training.classifier import Classifier, ClassifierReport, ClassifierSettings
from pygan.training.colour_classifier import (
    ColourClassifierTraining,
    ColourSettings,
    load_balanced,
)
from pygan.training.conditional import ConditionalGan
from pygan.training.gan import GanSettings, LessonGan
from pygan.training.gan_report import GanReport
from pygan.training.supervised import SmallBatches, SupervisedSettings


@dataclass(frozen=True)
class System:
    """What ``pygan train COMMAND`` trains, for ``epochs`` unless the user says otherwise.

    A small set of images is gone through more often, until ``least_batches`` are done.
    """

    command: str
    model: Any
    settings: type[Any]
    report: Callable[[Any, str], Any]
    epochs: int
    load: Callable[[str, Any], ImageSet] = lambda where, settings: load_digits(where)
    watch: Callable[[Any], Iterable[str]] | None = None
    least_batches: int = 0

    def epochs_of(self, batches_per_epoch: int) -> int:
        return max(self.epochs, math.ceil(self.least_batches / batches_per_epoch))

    @property
    def network(self) -> str:
        """The name in checkpoints."""
        return self.model.network


SYSTEMS = {
    system.command: system
    for system in (
        System("lesson", LessonGan, GanSettings, GanReport, epochs=20, least_batches=5000),
        System(
            "conditional", ConditionalGan, GanSettings, GanReport, epochs=20, least_batches=5000
        ),
        System(
            "classifier",
            Classifier,
            ClassifierSettings,
            ClassifierReport,
            epochs=10,
            load=lambda where, settings: load_train_and_test(where)[0],
        ),
        System(
            "colour-classifier",
            ColourClassifierTraining,
            ColourSettings,
            ClassifierReport,
            epochs=10,
            load=load_balanced,
        ),
        *(
            System(
                command,
                model,
                SupervisedSettings,
                AutoencoderReport,
                epochs=20,
                load=lambda where, settings: load_train_and_test(where)[0],
            )
            for command, model in (
                ("autoencoder", PlainAutoencoder),
                ("autoencoder-penalised", PenalisedAutoencoder),
                ("vae", Vae32),
                ("vae2", Vae2),
            )
        ),
        System(
            "anomaly-vae",
            AnomalyVae,
            SmallBatches,
            AutoencoderReport,
            epochs=10,
            load=lambda where, settings: load_normal_digits(where),
        ),
        System(
            "anomaly-lenet",
            AnomalyClassifier,
            SmallBatches,
            AnomalyReport,
            epochs=1,
            load=lambda where, settings: load_digits_but_3(where),
        ),
    )
}
