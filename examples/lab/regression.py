"""A task of one's own. The guide "Your own task" has the command."""

from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torchmetrics import R2Score

from tvlars.lab import Task


class Regression(Task):
    """Mean square error, with the mean absolute error and R² beside it."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(model(inputs).squeeze(1), targets)

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        prediction, targets = self.predict(model, batch)
        return {"absolute_error": (prediction - targets).abs().mean()}

    def metrics(self) -> dict[str, R2Score]:
        return {"r2": R2Score()}

    def predict(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = batch
        return model(inputs).squeeze(1), targets


def load() -> tuple[object, object]:
    x, y = load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    return (x[:342], y[:342]), (x[342:], y[342:])  # 442 patients with 10 values each


def build(channels: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels, 64), nn.ReLU(), nn.Linear(64, 1))
