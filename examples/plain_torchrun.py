"""TVLARS in a plain PyTorch loop under DistributedDataParallel, on CPUs (gloo).

Run it, and run it again from the middle:
    torchrun --standalone --nproc-per-node 2 examples/plain_torchrun.py
    torchrun --standalone --nproc-per-node 2 examples/plain_torchrun.py --resume runs/torchrun/epoch-10.pt
"""

import argparse
import time
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tvlars import TVLARS, layer_groups, plan

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("runs/torchrun"))
parser.add_argument("--resume", type=Path)
args = parser.parse_args()
dist.init_process_group("gloo")
torch.manual_seed(0)

x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
train, batch_size, epochs = TensorDataset(x[:1437], y[:1437]), 256, 15
sampler = DistributedSampler(train, drop_last=True)  # its order comes from seed and epoch, so that a resume finds it
loader = DataLoader(train, batch_size // dist.get_world_size(), sampler=sampler, drop_last=True)

model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10))
p = plan(batch_size, len(train), epochs)  # the batch size of all processes together
groups = layer_groups(model, p)  # before DDP, which puts a prefix to names
optimizer = TVLARS(groups, **p.optimizer_arguments())
first = 0
if args.resume:
    checkpoint = torch.load(args.resume, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])  # momentum and the clock of φ
    first = checkpoint["epoch"]
parallel = DistributedDataParallel(model)

args.out.mkdir(parents=True, exist_ok=True)
for epoch in range(first, epochs):
    sampler.set_epoch(epoch)
    for images, labels in loader:
        nn.functional.cross_entropy(parallel(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    if dist.get_rank() == 0:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
        torch.save(state, args.out / f"epoch-{epoch + 1}.pt")
if dist.get_rank() == 0:
    print(f"test accuracy {(model(x[1437:]).argmax(1) == y[1437:]).float().mean():.1%}")
time.sleep(0.1)  # a thread of gloo that lets go of its last work while the interpreter ends would abort it
dist.destroy_process_group()
