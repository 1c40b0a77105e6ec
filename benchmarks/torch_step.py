"""The lesson's training step in PyTorch, as a peer: same networks, same data path, same work.

The discriminator's weight gradients are left out in the generator's pass, as in pygan. On a GPU the
step also runs with TF32 off, since pygan computes in float32.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from measuring import measure


class TorchDevice:
    """What :func:`measuring.measure` needs of a device."""

    def __init__(self, torch: Any, name: str) -> None:
        self._torch = torch
        self.name = "torch-cuda" if name == "cuda" else "torch-cpu"

    def synchronize(self) -> None:
        if self.name == "torch-cuda":
            self._torch.cuda.synchronize()


def time_torch(images: Any, batch: int, samples: int) -> dict[str, dict[str, Any]]:
    """Figures by name: NCHW and channels last, on the GPU where PyTorch has one, else the CPU."""
    try:
        import torch
    except ImportError as error:
        raise SystemExit(f"--torch: PyTorch cannot be imported ({error})") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        description = f"{torch.cuda.get_device_name()}, TF32 off"
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        description = f"{torch.get_num_threads()} threads"
    figures = {}
    for layout, name in ((torch.contiguous_format, "NCHW"), (torch.channels_last, "NHWC")):
        step = _Step(torch, images.images, batch, device, layout)
        timing = measure(TorchDevice(torch, device), [step], samples=samples, seconds=0.0)
        if not all(np.isfinite(step.losses())):
            raise SystemExit(f"PyTorch's losses are no numbers: {step.losses()}")
        figures[f"torch {name}"] = {
            "description": f"PyTorch {torch.__version__}, {description}",
            "seconds": timing,
            "images_per_second": batch / timing.median,
        }
    return figures


class _Step:
    def __init__(self, torch: Any, images: np.ndarray, batch: int, device: str, layout: Any):
        self._torch, self._batch, self._device, self._layout = torch, batch, device, layout
        torch.manual_seed(11)
        nn = torch.nn
        layers: list[Any] = []
        for c_in, c_out, kernel, pad in ((10, 256, 4, 0), (256, 128, 3, 1), (128, 64, 4, 1)):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, kernel, 2, pad, bias=False),
                nn.BatchNorm2d(c_out, eps=1e-3),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(64, 1, 4, 2, 1, bias=False), nn.Sigmoid()]
        self._generator = nn.Sequential(*layers)
        layers = []
        for index, (c_in, c_out, kernel, stride) in enumerate(
            ((1, 24, 3, 1), (24, 32, 3, 2), (32, 64, 3, 1), (64, 64, 4, 1))
        ):
            layers += [
                nn.Conv2d(c_in, c_out, kernel, stride, bias=False),
                nn.BatchNorm2d(c_out, eps=1e-3),
                nn.LeakyReLU(0.25),
            ]
            if index == 0:
                layers.append(nn.AvgPool2d(2))
        layers.append(nn.Conv2d(64, 1, 1))
        self._discriminator = nn.Sequential(*layers)
        for network in (self._generator, self._discriminator):
            network.to(device).to(memory_format=layout)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.requires_grad_(False)  # fix_gamma
                elif getattr(module, "weight", None) is not None:
                    nn.init.uniform_(module.weight, -0.01, 0.01)
        adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
        self._adams = [
            torch.optim.Adam([p for p in network.parameters() if p.requires_grad], **adam)
            for network in (self._generator, self._discriminator)
        ]
        self._loss = nn.BCEWithLogitsLoss()
        self._table = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
        self._labels = [torch.full((batch, 1, 1, 1), v, device=device) for v in (0.0, 1.0)]
        self._kept: list[Any] = []

    def losses(self) -> list[float]:
        return [loss.item() for loss in self._kept]

    def __call__(self) -> None:
        torch, generator, discriminator = self._torch, self._generator, self._discriminator
        fake_label, real_label = self._labels
        adam_g, adam_d = self._adams
        places = torch.randint(len(self._table), (self._batch,), device=self._device)
        real = (self._table[places].float() / 255).to(memory_format=self._layout)
        noise = torch.randn(self._batch, 10, 1, 1, device=self._device)
        generated = generator(noise)
        self._kept = []
        for image, label in ((generated.detach(), fake_label), (real, real_label)):
            adam_d.zero_grad(set_to_none=True)
            loss = self._loss(discriminator(image), label)
            loss.backward()
            adam_d.step()
            self._kept.append(loss.detach())
        trained = [p for p in discriminator.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        adam_g.zero_grad(set_to_none=True)
        loss = self._loss(discriminator(generated), real_label)
        loss.backward()
        adam_g.step()
        for parameter in trained:
            parameter.requires_grad_(True)
        self._kept.append(loss.detach())
