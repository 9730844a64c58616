"""Training loops on random images: the laboratory's, one that anybody writes, and lightly's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import timed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, RandomRotation

from tvlars.lab import Reporter, TrainConfig
from tvlars.lab.bench.loops import LR, LoaderLoop, Pictures, lab_loop, random_images, seeded_model
from tvlars.lab.data import ImageData
from tvlars.lab.given import Given
from tvlars.lab.models import SMALL_IMAGE, head_of, put_head
from tvlars.lab.run_folder.record import NoRecord
from tvlars.lab.ssl import ViewRecipe, view_recipes
from tvlars.lab.ssl.methods import build_method
from tvlars.lab.training.prepare import prepare
from tvlars.lab.training.pretraining import Pretraining
from tvlars.lab.training.run import Run

BARLOW_TWINS = "barlow-twins"
PROJECTOR = (512, 512, 512)
"""Widths of Barlow Twins' projector."""


@dataclass(frozen=True)
class Workload:
    """Model, images and augmentation that loops train. It can be pickled.

    One turn is an epoch of ``images`` random images of ``size`` x ``size``. ``rotation`` is in degrees, ``padding`` in
    pixels, as in the published code; both are for classification alone. ``task`` is "classification" or
    ``BARLOW_TWINS``.
    """

    model: str
    images: int
    batch_size: int
    size: int = 32
    padding: int = 4
    rotation: float = 0.0
    device: str = "cpu"
    task: str = "classification"

    def build_model(self) -> nn.Module:
        """Return the model, the same each time."""
        return seeded_model(self.model, self.size)

    def data(self) -> ImageData:
        """Return the images, the same each time."""
        return random_images(self.images, self.size)

    def pictures(self) -> Pictures:
        """Return the images as the published code reads them."""
        turns = [RandomRotation(self.rotation)] if self.rotation else []
        return Pictures(self.data(), self.padding, *turns)

    def lab_loop(self, data: ImageData | None = None, **options: Any) -> Run:
        """Return the laboratory's loop, on ``data`` in place of random images; ``options`` are of ``TrainConfig``."""
        data, model = data or self.data(), self.build_model()
        if self.task != BARLOW_TWINS:
            options = {"rotation": self.rotation, "crop_padding": self.padding, **options}
            return lab_loop(data, model, self.device, self.batch_size, **options)
        usual: dict[str, Any] = {"task": BARLOW_TWINS, "projector": "-".join(map(str, PROJECTOR)), "lr": LR}
        sizes = {"batch_size": self.batch_size, "micro_batch_size": self.batch_size, "epochs": 10_000}
        config = TrainConfig("cifar10", accelerator=self.device, **{**usual, **sizes, **options})
        prepared, nowhere = prepare(config, Given(data)), NoRecord(Path(tempfile.gettempdir()))
        return Run(Pretraining(prepared, model, nowhere, Reporter()))


class StandardStem(Workload):
    """A workload whose model has the stem that torchvision made for 224 pixels."""

    def build_model(self) -> nn.Module:
        return seeded_model(self.model, max(self.size, SMALL_IMAGE))


class LabTurn:
    """Turn of the laboratory's loop, an epoch; ``said`` is how it computes. ``options`` are of ``TrainConfig``."""

    def __init__(self, workload: Workload, **options: Any) -> None:
        self.loop = workload.lab_loop(**options)
        learner = self.loop.learner
        precision = {"32-true": "float32", "bf16-mixed": "bf16"}[learner.fabric.strategy.precision.precision]
        compiled = any(isinstance(one, torch._dynamo.OptimizedModule) for one in learner.model.modules())
        self.said = f"{precision}, compiled" if compiled else precision

    def __call__(self) -> float:
        """Return the seconds of one epoch."""
        return timed(self.loop.run_epoch)


class OtherMeans(nn.Module):
    """A model that computes in bfloat16, or with images in the memory format channels_last."""

    def __init__(self, model: nn.Module, bf16: bool, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.model, self.bf16, self.format = model.to(memory_format=memory_format), bf16, memory_format

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(memory_format=self.format)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(images)


class OtherLoop(LoaderLoop):
    """The published loop, or one with other means; one turn is an epoch.

    Args:
        workload: what is trained.
        workers: processes of the DataLoader; 0: none.
        bf16: autocast to bfloat16; the published loop is in float32.
        channels_last: weights and images in that memory format.
        make_optimizer: from a model to what takes a step; None (default): TVLARS as the laboratory has it.
        dataset: what the DataLoader reads in place of the workload's images.
    """

    def __init__(
        self,
        workload: Workload,
        workers: int,
        bf16: bool = False,
        channels_last: bool = False,
        make_optimizer: Callable[[nn.Module], Any] | None = None,
        dataset: Dataset[Any] | None = None,
    ) -> None:
        model = workload.build_model()
        super().__init__(dataset or workload.pictures(), workers, model, workload.device, workload.batch_size)
        if make_optimizer is not None:
            self.optimizer = make_optimizer(model)
        if bf16 or channels_last:
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
            self.model = OtherMeans(model, bf16, memory_format)

    def __call__(self) -> float:
        """Return the seconds of one epoch."""
        return timed(self.run_epoch)


# -- Barlow Twins -----------------------------------------------------------------------------------------


def pil_views(recipe: ViewRecipe, size: int) -> Any:
    """Return the transform of PIL images to views of a recipe, of torchvision's parts."""
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(recipe.min_scale, 1.0), antialias=True),
            v2.RandomHorizontalFlip(recipe.flip),
            v2.RandomApply([jitter], recipe.jitter),
            v2.RandomGrayscale(recipe.grayscale),
            v2.RandomSolarize(128, recipe.solarize),
        ]
    )


class TwoViews:
    """Transform of a PIL image to two views, as tensors."""

    def __init__(self, size: int) -> None:
        from torchvision.transforms import Normalize, ToTensor

        last = [ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        self.views = [Compose([pil_views(recipe, size), *last]) for recipe in view_recipes(3, size)]

    def __call__(self, image: Any) -> list[Tensor]:
        return [view(image) for view in self.views]


class TwinsLoop:
    """Barlow Twins around a DataLoader, as in the example of lightly's documentation; one turn is an epoch.

    Args:
        workload: what is trained.
        workers: processes of the DataLoader; 0: none.
        channels_last: weights and images in that memory format.
        whole: with transform, projector and optimizer of lightly's example too, in place of the laboratory's.
    """

    def __init__(self, workload: Workload, workers: int, channels_last: bool = False, whole: bool = False) -> None:
        from lightly.loss import BarlowTwinsLoss
        from lightly.models.modules import BarlowTwinsProjectionHead
        from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform

        from tvlars import TVLARS

        backbone, size = workload.build_model(), workload.size
        name, head = head_of(backbone)
        put_head(backbone, name, nn.Identity())
        pictures = workload.pictures()
        if whole:
            self.model: nn.Module = nn.Sequential(backbone, BarlowTwinsProjectionHead(head.in_features, *PROJECTOR[:2]))
            views = [view(input_size=size, gaussian_blur=0.0) for view in (BYOLView1Transform, BYOLView2Transform)]
            pictures.transform = BYOLTransform(*views)
        else:
            widths = "-".join(map(str, PROJECTOR))
            self.model = build_method(BARLOW_TWINS, backbone, head.in_features, widths, None, True)[0]
            pictures.transform = TwoViews(size)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.device = torch.device(workload.device)
        self.model.to(self.device, memory_format=self.format).train()  # type: ignore[call-overload]
        parameters = self.model.parameters()
        self.optimizer: Any = (
            torch.optim.SGD(parameters, lr=0.06) if whole else TVLARS(parameters, lr=0.1, total_steps=1000)
        )
        self.criterion = BarlowTwinsLoss()
        kept: dict[str, Any] = {"persistent_workers": workers > 0, "pin_memory": workload.device == "cuda"}
        self.loader = DataLoader(
            pictures, workload.batch_size, shuffle=True, drop_last=True, num_workers=workers, **kept
        )

    def run_epoch(self) -> float:
        """Train on all images once; return the mean loss."""
        total = torch.zeros((), device=self.device)
        for views, _ in self.loader:
            first, second = (view.to(self.device, memory_format=self.format, non_blocking=True) for view in views)
            loss = self.criterion(self.model(first), self.model(second))
            total += loss.detach()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(total) / len(self.loader)

    def __call__(self) -> float:
        """Return the seconds of one epoch."""
        return timed(self.run_epoch)
