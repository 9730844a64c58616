"""TVLARS in a loop of Hugging Face Accelerate, with gradient accumulation and clipping.

Run it, and run it again from the middle (python in place of accelerate launch does too):
    accelerate launch --cpu examples/accelerate_loop.py
    accelerate launch --cpu examples/accelerate_loop.py --resume runs/accelerate/epoch-10
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tvlars import TVLARS, layer_groups, plan

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("runs/accelerate"))
parser.add_argument("--resume", type=Path)
args = parser.parse_args()
set_seed(0)
accelerator = Accelerator(
    cpu=True,
    gradient_accumulation_steps=2,
    dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, split_batches=True),
)

x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
train, epochs = TensorDataset(x[:1280], y[:1280]), 15
loader = DataLoader(train, 128, shuffle=True, drop_last=True)

model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10))
p = plan(256, len(train), epochs)  # two batches of 128 a step
groups = layer_groups(model, p)
optimizer = TVLARS(groups, **p.optimizer_arguments())
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
first = 0
if args.resume:
    accelerator.load_state(args.resume)
    first = int(args.resume.name.removeprefix("epoch-"))

for epoch in range(first, epochs):
    loader.set_epoch(epoch)
    for images, labels in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(images), labels))
            if accelerator.sync_gradients:  # otherwise the optimizer does not step, and its clock stands
                accelerator.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.save_state(args.out / f"epoch-{epoch + 1}")
accelerator.print(f"test accuracy {(model(x[1280:]).argmax(1) == y[1280:]).float().mean():.1%}")
