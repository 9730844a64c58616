"""TVLARS in a LightningModule; the Trainer saves it, and its clock, with everything else.

Run it, and run it again from the middle:
    python examples/lightning_trainer.py
    python examples/lightning_trainer.py --resume runs/lightning/epoch=9.ckpt
"""

import argparse

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tvlars import TVLARS, Plan, layer_groups, plan
from tvlars.integrations.lightning import LayerStatsMonitor, NoiseScaleMonitor, PhiMonitor


class Digits(L.LightningModule):
    def __init__(self, p: Plan) -> None:
        super().__init__()
        self.plan = p
        self.model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def test_step(self, batch, batch_idx):
        images, labels = batch
        self.log("test accuracy", (self.model(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):  # no scheduler: φ is in the optimizer
        return TVLARS(layer_groups(self, self.plan), **self.plan.optimizer_arguments())


parser = argparse.ArgumentParser()
parser.add_argument("--out", default="runs/lightning")
parser.add_argument("--resume")
args = parser.parse_args()
L.seed_everything(0)
x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
train, test = TensorDataset(x[:1280], y[:1280]), TensorDataset(x[1280:], y[1280:])
# Lightning tells this sampler the epoch; with shuffle=True a resumed run would see another order.
sampler = DistributedSampler(train, num_replicas=1, rank=0)
loader = DataLoader(train, 128, sampler=sampler, drop_last=True)

p = plan(256, len(train), epochs=15)  # two batches of 128 a step
checkpoints = ModelCheckpoint(args.out, filename="{epoch}", save_top_k=-1)
monitors = PhiMonitor(), NoiseScaleMonitor(), LayerStatsMonitor()  # in the progress bar and logs
options = dict(accelerator="cpu", devices=1, callbacks=[checkpoints, *monitors], log_every_n_steps=1)
trainer = L.Trainer(max_epochs=15, accumulate_grad_batches=2, logger=CSVLogger(args.out, "logs"), **options)
module = Digits(p)
trainer.fit(module, loader, ckpt_path=args.resume)
trainer.test(module, DataLoader(test, 517))
