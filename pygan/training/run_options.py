"""What a user asks of a run, and what of it a run that is resumed keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pygan.errors import PyganError
from pygan.flags import flag
from pygan.training.systems import System


@dataclass(frozen=True)
class RunOptions:
    """What a user asks of a run; None leaves it to the checkpoint that is resumed, or a default.

    system: a name in ``pygan.training.systems.SYSTEMS``, or a System. data: see
    ``pygan.data.load_digits``. asked: further settings of the system by name, None where not asked.
    epochs: in all, resumed ones included. length: batches in all, in place of epochs. max_batches:
    stop after so many batches in all, whatever the others say, to go on another time. graph:
    whether steps are recorded, see ``pygan.training.recording.choose``. precision: of the products
    of a step, storage: of its activations, lean: without the results of batch norms, and
    cooperative: small layers in one launch, see ``pygan.executor.Executor``. part: one of several
    runs of a command, which goes on with it and with what follows.
    """

    out: str
    system: str | System = "lesson"
    data: str | None = None
    epochs: int | None = None
    length: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    max_batches: int | None = None
    resume: bool = False
    overwrite: bool = False
    graph: str = "auto"
    precision: str | None = None
    storage: str | None = None
    lean: bool = False
    cooperative: bool = False
    asked: Mapping[str, Any] = field(default_factory=dict)
    part: bool = False

    def __post_init__(self) -> None:
        for name in ("resume", "overwrite", "lean", "cooperative", "part"):
            object.__setattr__(self, name, flag(getattr(self, name), name))


def kept_settings(options: RunOptions, saved: dict[str, Any], kind: type[Any]) -> Any:
    """The settings of a run; a resumed run keeps its own, and asking for others is an error."""
    named = {"batch_size": options.batch_size, "seed": options.seed, **options.asked}
    asked = {name: value for name, value in named.items() if value is not None}
    if not saved:
        return kind(**asked)
    settings = kind(**saved["settings"])
    for name, value in asked.items():
        if value != getattr(settings, name):
            raise _differs(name, value, getattr(settings, name))
    return settings


def kept_format(name: str, asked: str | None, saved: dict[str, Any]) -> str:
    """As `kept_settings`; runs saved before there was a choice are float32."""
    if not saved:
        return asked or "float32"
    kept = saved.get(name, "float32")
    if asked not in (None, kept):
        raise _differs(name, asked, kept)
    return kept


def kept_switch(name: str, asked: bool, saved: dict[str, Any]) -> bool:
    """As `kept_format`, for what is off unless asked for."""
    kept = saved.get(name, False) if saved else asked
    if asked and not kept:
        raise _differs(name, "on", "off")
    return kept


def _differs(name: str, asked: Any, saved: Any) -> PyganError:
    return PyganError(
        f"--{name.replace('_', '-')} {asked} differs from {saved} of the run to resume; leave it "
        "out, or start a run in another folder"
    )
