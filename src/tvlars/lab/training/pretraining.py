"""Pretraining without labels: its loss compares two views, followed by an evaluation of features."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvlars.lab.data.image_data import sample
from tvlars.lab.errors import DivergedError, UsageError
from tvlars.lab.files.disk import write_whole
from tvlars.lab.models import head_of, put_head
from tvlars.lab.processes.sync_batch_norm import plain_batch_norm
from tvlars.lab.run_folder.record import Record
from tvlars.lab.run_folder.rows import RepresentationRow
from tvlars.lab.ssl.draw_views import picture_of_views
from tvlars.lab.ssl.evaluations import describe_evaluation, parse_evaluations
from tvlars.lab.ssl.large_batch import Views, exact_backward, gather
from tvlars.lab.ssl.methods import build_method
from tvlars.lab.ssl.probes import evaluate_features, folded
from tvlars.lab.ssl.representation import alignment, effective_rank, feature_std, uniformity
from tvlars.lab.ssl.views import ViewRecipe, describe_views, draw_view, make_view, view_recipes
from tvlars.lab.training.learner import Learner
from tvlars.lab.training.prepare import Prepared
from tvlars.lab.training.progress import Reporter

REPRESENTATION_SAMPLES = 1024
KEPT_BYTES = 2**28
"""Views of a batch up to this size are computed once and kept; larger ones are computed again for each use."""
PROBE_LR = 0.01


class Pretraining(Learner):
    """Method of self-supervised learning around the model, whose classifier is removed.

    If there are labels, an online probe is trained: a classifier on detached features. Rows hold its accuracies, on
    augmented views in training and on unaugmented images in the test.
    """

    evaluates_at_the_end: ClassVar[bool] = True

    def __init__(self, prepared: Prepared, model: nn.Module, record: Record, reporter: Reporter) -> None:
        config, data, device = prepared.config, prepared.data, prepared.fabric.device
        self.head_name, head = head_of(model)
        put_head(model, self.head_name, nn.Identity())
        self.method, self.description = build_method(
            config.task, model, head.in_features, config.projector, config.method_options, device.type == "cpu"
        )
        self.wanted = parse_evaluations(config.evaluations)
        self.untrained: nn.Module | None = None
        """Backbone with random weights, if it is evaluated too; for a module given in Python, a copy of it."""
        if any(one.kind.startswith("random") for one in self.wanted):
            self.untrained = prepared.untrained()
            if self.untrained is None:
                self.untrained = copy.deepcopy(model)
            else:
                put_head(self.untrained, self.head_name, nn.Identity())
            self.untrained.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(prepared, self.method, record, reporter)
        self.recipes = view_recipes(data.channels, data.image_size, data.flip)
        self.labelled = data.classes > 1
        self.seen: list[Tensor] = []
        self.hook = self.method.backbone.register_forward_hook(self._keep_features)
        self.probe_norm = nn.BatchNorm1d(self.method.features, affine=False).to(device)
        self.probe = nn.Linear(self.method.features, data.classes).to(device)
        nn.init.zeros_(self.probe.weight)
        nn.init.zeros_(self.probe.bias)
        self.probe_optimizer = torch.optim.Adam(self.probe.parameters(), PROBE_LR)
        self.extra = dict(probe=self.probe, probe_norm=self.probe_norm, probe_optimizer=self.probe_optimizer)
        self.head: nn.Linear | None = None
        """Classifier of the linear evaluation; None before it."""

    def facts(self) -> dict[str, str]:
        config, data = self.config, self.data
        preset = config.preset_facts()
        return {"task": self.description, **preset, "views": describe_views(data.channels, data.image_size, data.flip)}

    def before_training(self) -> None:
        """Draw some views of training images into views.png."""
        data, record = self.data, self.record
        picture = picture_of_views(data, min(8, len(data.train_labels)), self.config.seed)
        record.check_place()
        write_whole(record.folder / "views.png", picture)

    def _keep_features(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.seen.append(output.detach().float())

    def gradient(self, batch: Tensor, upcoming: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the exact gradient of the whole batch in parts, and take a step of the online probe."""
        parts = _BatchViews(self, self.recipes, batch, upcoming)
        self.seen.clear()

        def backward(value: Tensor) -> None:
            with self.phase("backward"):
                self.fabric.backward(value)

        with self.phase("forward"):
            loss = exact_backward(self.model, parts, self.method.loss, backward=backward, no_sync=self.no_sync)
        features, self.seen = self.seen, []
        # The probe's step uses the whole batch and is the same in every process.
        first, second = (torch.cat(gather(torch.cat(features[view::2]))) for view in (0, 1))
        correct = self._train_probe(first, second, self.data.train_labels[batch])
        # Both values are of the whole batch; the summands of all processes add up to them.
        return loss / self.processes.count, correct / self.processes.count

    def inputs(self, batch: Tensor) -> Iterator[Tensor]:
        for first, second in _BatchViews(self, self.recipes, batch, batch[:0]):
            yield first
            yield second

    def _train_probe(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """Take a step of the online probe; return the number of first views that it classified correctly before."""
        if not self.labelled:
            return torch.full((), math.nan, device=labels.device)
        features = self.probe_norm(torch.cat([first, second]))
        with torch.enable_grad():
            logits = self.probe(features)
            F.cross_entropy(logits, labels.repeat(2)).backward()  # type: ignore[no-untyped-call]
        self.probe_optimizer.step()
        self.probe_optimizer.zero_grad()
        correct: Tensor = (logits[: len(labels)].argmax(1) == labels).sum()
        return correct

    def after_step(self, step: int) -> None:
        self.method.after_step(step / self.plan.total_steps)

    @torch.no_grad()
    def test(self, epoch: int, step: int, split: str = "test") -> tuple[float, float]:
        """Return the loss on views of some images of ``split``, and the online probe's accuracy on all, unaugmented."""
        self.model.eval()
        row = self._representation(epoch, step, split)
        if split == self.watched:
            self.record.add_measurement("representation.csv", row)
            if (collapsed := row.collapse()) is not None:
                self.reporter.note(f"collapse after epoch {epoch}: {collapsed}")
        if not self.labelled:
            return row.loss, math.nan
        self.probe_norm.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        for images, labels in self.batches.test(split):
            logits = self.probe(self.probe_norm(self.method.backbone(images).float()))
            correct += (logits.argmax(1) == labels).sum()
        self.probe_norm.train()
        return row.loss, int(self.processes.total(correct)) / len(self.data.part(split)[1])

    def _representation(self, epoch: int, step: int, split: str) -> RepresentationRow:
        images, _ = sample(*self.data.part(split), REPRESENTATION_SAMPLES)
        draws = torch.Generator(images.device).manual_seed(0)  # the same views in every epoch and run
        both = [make_view(images, draw_view(len(images), draws), recipe) for recipe in self.recipes]

        def encoded(network: nn.Module) -> list[Tensor]:
            size = self.config.micro_batch_size
            return [torch.cat([network(self.normalize(x)).float() for x in torch.split(view, size)]) for view in both]

        features, compared = encoded(self.method.backbone), encoded(self.method)
        embeddings = [self.method.projector(x).float() for x in features]
        return RepresentationRow(
            epoch=epoch,
            step=step,
            samples=len(images),
            loss=float(self.method.loss(*compared)),
            feature_std=feature_std(features[0]),
            feature_rank=effective_rank(features[0]),
            embedding_std=feature_std(embeddings[0]),
            embedding_rank=effective_rank(embeddings[0]),
            alignment=alignment(*embeddings),
            uniformity=uniformity(embeddings[0]),
        )

    def after_training(self, step: int) -> None:
        """Evaluate features in the first process alone, after the weights are saved."""
        self.hook.remove()  # fine-tuning copies the backbone, and would copy this learner with it
        plain_batch_norm(self.bare_model, self.batch_norms)  # other processes no longer take part
        self.processes.alone(lambda: self._evaluate_features(step))
        self.evaluations = self.processes.broadcast(self.evaluations)

    def _evaluate_features(self, step: int) -> None:
        """Evaluate features and write each result at once; a run without a test uses the validation images."""
        config = self.config
        data = self.data if config.test else self.data.with_validation_as_test()
        self.record.save_weights(self.weights())
        try:
            for name, found, head in evaluate_features(
                self.method.backbone,
                data,
                self.normalize,
                self.wanted,
                untrained=self.untrained,
                seed=config.seed,
                padding=self.batches.padding,
                batch_size=min(config.micro_batch_size, 1024),
            ):
                self.evaluations[name] = found
                self.head = head if name == "linear" else self.head
                self.record.add_evaluations(self.evaluations)
                self.reporter.note(
                    describe_evaluation(name, found, len(data.train_labels), "test" if config.test else "validation")
                )
        except UsageError as error:  # the last step's features are not finite
            lr = self.plan.lr * self.plan.factor(step)
            raise DivergedError(config.arm_name, step, lr, self.record.folder, "backbone's output") from error

    def weights(self) -> dict[str, Any]:
        """Return the weights of the complete model: the backbone, and the best available classifier as its head."""
        head = self.head
        if head is None:
            norm: Any = self.probe_norm
            head = folded(self.probe, norm.running_mean, (norm.running_var + norm.eps).sqrt())
        state = dict(self.method.backbone.state_dict())
        return {**state, **{f"{self.head_name}.{name}": value for name, value in head.state_dict().items()}}


class _BatchViews:
    """Both views of a batch, part by part. Draws are made for the whole batch, so they do not depend on the parts."""

    def __init__(self, learner: Learner, recipes: tuple[ViewRecipe, ...], batch: Tensor, upcoming: Tensor) -> None:
        self.learner, self.recipes = learner, recipes
        batches = learner.batches
        self.draws = [batches.split(draw_view(len(batch), batches.draws)) for _ in recipes]
        self.indices, self.upcoming = batches.split(batch), batches.split(upcoming)[0]
        size = 8 * sum(map(len, self.indices)) * learner.data.channels * learner.data.image_size**2
        self.turns = 1 if size <= KEPT_BYTES or len(self.indices) == 1 else 2
        """Number of times that the views are still to be computed."""
        self.kept = list(self._made()) if size <= KEPT_BYTES else None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Views]:
        return iter(self.kept) if self.kept is not None else self._made()

    def _made(self) -> Iterator[Views]:
        learner = self.learner
        self.turns -= 1
        then = self.indices[0] if self.turns else self.upcoming
        for images, *draws in zip(learner.batches.images(self.indices, then), *self.draws, strict=True):
            with learner.phase("augmentation"):
                first, second = (
                    learner.normalize(make_view(images, drawn, recipe))
                    for drawn, recipe in zip(draws, self.recipes, strict=True)
                )
            yield first, second
