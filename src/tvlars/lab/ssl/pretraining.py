"""Pretraining without labels: the laboratory's loop with another step, and an evaluation of features at its end."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData
from tvlars.lab.data.image_data import sample
from tvlars.lab.errors import DivergedError, UsageError
from tvlars.lab.models import head_of, put_head
from tvlars.lab.processes.sync_batch_norm import plain_batch_norm
from tvlars.lab.run_folder.record import Record
from tvlars.lab.run_folder.rows import RepresentationRow
from tvlars.lab.ssl.evaluations import describe_evaluation, parse_evaluations
from tvlars.lab.ssl.large_batch import Views, exact_backward, gather
from tvlars.lab.ssl.methods import Method, build_method
from tvlars.lab.ssl.probes import evaluate_features, folded
from tvlars.lab.ssl.representation import alignment, effective_rank, feature_std, uniformity
from tvlars.lab.ssl.views import draw_view, make_view, view_recipes
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.run import Run
from tvlars.plan import Plan

REPRESENTATION_SAMPLES = 1024
KEPT_BYTES = 2**28
"""Views of a batch up to this size are made once and kept; larger ones are made anew where they are needed."""
PROBE_LR = 0.01


def around(config: TrainConfig, model: nn.Module, on_cpu: bool) -> tuple[Method, str]:
    """The method of a run around ``model``, whose classifier is taken off, and what it is in words."""
    name, head = head_of(model)
    put_head(model, name, nn.Identity())
    return build_method(config.task, model, head.in_features, config.projector, config.method_options, on_cpu)


class Pretraining(Run):
    """A run whose loss needs no labels.

    Where there are labels they train an online probe: a classifier on features that are cut off from the loss. Its
    accuracies are those of the rows, on augmented views in training and on images as they are in the test.
    """

    def __init__(
        self,
        config: TrainConfig,
        plan: Plan,
        data: ImageData,
        mean_and_std: tuple[Tensor, Tensor],
        fabric: Fabric,
        model: Method,
        record: Record,
        reporter: Reporter,
        *,
        head: str,
    ) -> None:
        self.evaluations_wanted = parse_evaluations(config.evaluations)
        random = any(one.kind.startswith("random") for one in self.evaluations_wanted)
        self.untrained = copy.deepcopy(model.backbone) if random else None
        super().__init__(config, plan, data, mean_and_std, fabric, model, record, reporter)
        self.method, self.head_name = model, head
        self.recipes = view_recipes(data.channels, data.image_size, data.flip)
        self.labelled = data.classes > 1
        device = fabric.device
        if self.untrained is not None:
            self.untrained.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.seen: list[Tensor] = []
        self.hook = model.backbone.register_forward_hook(self._keep_features)
        self.probe_norm = nn.BatchNorm1d(model.features, affine=False).to(device)
        self.probe = nn.Linear(model.features, data.classes).to(device)
        nn.init.zeros_(self.probe.weight)
        nn.init.zeros_(self.probe.bias)
        self.probe_optimizer = torch.optim.Adam(self.probe.parameters(), PROBE_LR)
        self.head: nn.Linear | None = None

    def _keep_features(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.seen.append(output.detach().float())

    def _optimizer_step(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """One step on the samples with these indices: exactly that of the whole batch, in parts."""
        parts = _BatchViews(self, batch)
        self.seen.clear()
        no_sync = partial(self._no_sync, True)
        with self.phase("forward"):  # and backward: they take turns
            loss = exact_backward(self.model, parts, self.method.loss, backward=self.fabric.backward, no_sync=no_sync)
        features, self.seen = self.seen, []
        self._update()
        self.method.after_step(self.step / self.plan.total_steps)
        both = [torch.cat(features[view::2]) for view in (0, 1)]
        if self.processes.several:  # the probe's step is that of the whole batch, the same in every process
            both = [torch.cat(gather(part)) for part in both]
        correct = self._train_probe(both[0], both[1], self.data.train_labels[batch])
        # Both are of the whole batch, and a step returns this process's share.
        return loss / self.processes.count, correct / self.processes.count

    def _train_probe(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """One step of the online probe; returns how many first views it had right before."""
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

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """The loss on views of some test images, and the online probe's accuracy on test images as they are."""
        self.model.eval()
        row = self._representation()
        self.record.add_measurement("representation.csv", row)
        if (collapsed := row.collapse()) is not None:
            self.reporter.note(f"collapse after epoch {row.epoch}: {collapsed}")
        correct = 0
        if self.labelled:
            self.probe_norm.eval()
            for images, labels in self.batches.test():
                logits = self.probe(self.probe_norm(self.method.backbone(images).float()))
                correct += int((logits.argmax(1) == labels).sum())
            self.probe_norm.train()
            correct = int(self.processes.total(torch.tensor(correct, device=self.fabric.device)))
        return row.loss, correct / len(self.data.test_labels) if self.labelled else math.nan

    def _representation(self) -> RepresentationRow:
        images, _ = sample(self.data.test_images, self.data.test_labels, REPRESENTATION_SAMPLES)
        draws = torch.Generator(images.device).manual_seed(0)  # the same views after every epoch, in every run
        both = [make_view(images, draw_view(len(images), draws), recipe) for recipe in self.recipes]
        features, compared, embeddings = [], [], []
        for view in both:
            pieces = [self.normalize(x) for x in torch.split(view, self.config.micro_batch_size)]
            features.append(torch.cat([self.method.backbone(x).float() for x in pieces]))
            compared.append(torch.cat([self.method(x).float() for x in pieces]))
            embeddings.append(self.method.projector(features[-1]).float())
        return RepresentationRow(
            epoch=len(self.epochs) + 1,
            step=self.step,
            samples=len(images),
            loss=float(self.method.loss(*compared)),
            feature_std=feature_std(features[0]),
            feature_rank=effective_rank(features[0]),
            embedding_std=feature_std(embeddings[0]),
            embedding_rank=effective_rank(embeddings[0]),
            alignment=alignment(*embeddings),
            uniformity=uniformity(embeddings[0]),
        )

    def extra_state(self) -> dict[str, Any]:
        return {
            "probe": self.probe.state_dict(),
            "probe_norm": self.probe_norm.state_dict(),
            "probe_optimizer": self.probe_optimizer.state_dict(),
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.probe.load_state_dict(state["probe"])
        self.probe_norm.load_state_dict(state["probe_norm"])
        self.probe_optimizer.load_state_dict(state["probe_optimizer"])

    def _after_training(self) -> None:
        """Evaluate features, in one process alone; the weights are safe before."""
        self.hook.remove()  # a copy of the backbone, for fine-tuning, would take all of this with it
        plain_batch_norm(self.bare_model, self.batch_norms)  # others take no part any more
        self.processes.alone(self._evaluate_features)
        self.evaluations = self.processes.broadcast(self.evaluations)

    def _evaluate_features(self) -> None:
        """Each result is written as it comes."""
        self.record.save_weights(self._weights())
        try:
            for name, found, head in evaluate_features(
                self.method.backbone,
                self.data,
                self.normalize,
                self.evaluations_wanted,
                untrained=self.untrained,
                seed=self.config.seed,
                padding=self.batches.padding,
                batch_size=min(self.config.micro_batch_size, 1024),
            ):
                self.evaluations[name] = found
                self.head = head if name == "linear" else self.head
                self.record.add_evaluations(self.evaluations)
                self.reporter.note(describe_evaluation(name, found, len(self.data.train_labels)))
        except UsageError as error:  # features of the last step that are not finite
            lr = self.plan.lr * self.plan.factor(self.step)
            raise DivergedError(
                self.config.optimizer, self.step, lr, self.record.folder, "backbone's output"
            ) from error

    def _weights(self) -> dict[str, Any]:
        """The backbone with the best classifier there is as its head: the model by its name, ready for use."""
        head = self.head
        if head is None:
            norm: Any = self.probe_norm
            head = folded(self.probe, norm.running_mean, (norm.running_var + norm.eps).sqrt())
        state = dict(self.method.backbone.state_dict())
        return {**state, **{f"{self.head_name}.{name}": value for name, value in head.state_dict().items()}}


class _BatchViews:
    """Both views of a batch, part by part. Draws are those of the whole batch, so parts do not change them."""

    def __init__(self, run: Pretraining, batch: Tensor) -> None:
        self.run = run
        share = run.processes.share
        draws = [share(draw_view(len(batch), run.batches.draws)) for _ in run.recipes]
        batch, count = share(batch), run.batches.count
        self.indices = torch.tensor_split(batch, count)
        self.draws = [torch.tensor_split(drawn, count) for drawn in draws]
        data = run.data
        size = 8 * len(batch) * data.channels * data.image_size**2
        self.kept: list[Views] | None = list(self._made()) if size <= KEPT_BYTES else None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Views]:
        return iter(self.kept) if self.kept is not None else self._made()

    def _made(self) -> Iterator[Views]:
        run = self.run
        for index, *draws in zip(self.indices, *self.draws, strict=True):
            images = run.batches.feed.take(index)
            first, second = (
                run.normalize(make_view(images, drawn, recipe))
                for drawn, recipe in zip(draws, run.recipes, strict=True)
            )
            yield first, second
