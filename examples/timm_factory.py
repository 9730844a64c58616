"""TVLARS by its name in timm's factory, on a model of timm's, with timm's checkpoints.

Run it, and run it again from the middle:
    python examples/timm_factory.py
    python examples/timm_factory.py --resume runs/timm/checkpoint-9.pth.tar
"""

import argparse
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, CheckpointSaver, accuracy, random_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tvlars import plan
from tvlars.integrations.timm import register

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("runs/timm"))
parser.add_argument("--resume")
args = parser.parse_args()
random_seed(0)
register()

x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(y)
train, batch_size, epochs = TensorDataset(x[:1437], y[:1437]), 256, 15
shuffle = torch.Generator()
loader = DataLoader(train, batch_size, shuffle=True, drop_last=True, generator=shuffle)

model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
p = plan(batch_size, len(train), epochs)
# timm leaves weight decay off biases and norms; the name "tvlars" gives them no adaptation and a smaller lr as well.
# Its schedulers (create_scheduler_v2) are not wanted: φ is in the optimizer.
optimizer = create_optimizer_v2(model, "tvlars", bias_norm_lr_scale=p.bias_norm_lr_scale, **p.optimizer_arguments())
first = resume_checkpoint(model, args.resume, optimizer) if args.resume else 0
args.out.mkdir(parents=True, exist_ok=True)
saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(args.out), max_history=epochs)

top1 = AverageMeter()
for epoch in range(first, epochs):
    shuffle.manual_seed(epoch)  # so that a resumed run sees the same order
    model.train()
    for images, labels in loader:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        top1.reset()
        top1.update(accuracy(model(x[1437:]), y[1437:])[0].item())
    saver.save_checkpoint(epoch, metric=top1.avg)
print(f"test accuracy {top1.avg:.1f}%")
