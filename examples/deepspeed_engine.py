"""TVLARS in a DeepSpeed engine, without ZeRO, whose flat shards are no layers; here on a CPU.

Run it, and run it again from the middle:
    DS_ACCELERATOR=cpu deepspeed --num_gpus 1 examples/deepspeed_engine.py
    DS_ACCELERATOR=cpu deepspeed --num_gpus 1 examples/deepspeed_engine.py --resume runs/deepspeed/epoch-10
"""

import argparse
from pathlib import Path

import deepspeed
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tvlars import TVLARS, layer_groups, plan

parser = argparse.ArgumentParser()
parser.add_argument("--out", default="runs/deepspeed")
parser.add_argument("--resume", type=Path)
parser.add_argument("--local_rank", type=int, default=0)
args = parser.parse_args()
deepspeed.init_distributed()
torch.manual_seed(0)

x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
train, batch_size, epochs = TensorDataset(x[:1437], y[:1437]), 256, 15
sampler = DistributedSampler(train, drop_last=True)  # its order comes from seed and epoch, so that a resume finds it
loader = DataLoader(train, batch_size // torch.distributed.get_world_size(), sampler=sampler, drop_last=True)

model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10))
p = plan(batch_size, len(train), epochs)  # train_batch_size of DeepSpeed: that of all processes together
groups = layer_groups(model, p)
config = {"train_batch_size": batch_size, "zero_optimization": {"stage": 0}}
engine, optimizer, _, _ = deepspeed.initialize(
    model=model, optimizer=TVLARS(groups, **p.optimizer_arguments()), config=config
)
first = 0
if args.resume:
    _, client = engine.load_checkpoint(args.resume.parent, tag=args.resume.name)
    first = client["epoch"]

for epoch in range(first, epochs):
    sampler.set_epoch(epoch)
    for images, labels in loader:
        engine.backward(nn.functional.cross_entropy(engine(images), labels))
        engine.step()
    engine.save_checkpoint(args.out, tag=f"epoch-{epoch + 1}", client_state={"epoch": epoch + 1})
if torch.distributed.get_rank() == 0:
    print(f"test accuracy {(model(x[1437:]).argmax(1) == y[1437:]).float().mean():.1%}")
