"""lightly's Barlow Twins example with TVLARS in place of SGD, on digits.

Run it, and run it again from the middle:
    python examples/lightly_barlow_twins.py
    python examples/lightly_barlow_twins.py --resume runs/lightly/epoch-8.pt
"""

import argparse
from pathlib import Path

import torch
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from lightly.transforms.multi_view_transform import MultiViewTransform
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import Compose, RandomAffine, ToPILImage, ToTensor

from tvlars import TVLARS, layer_groups, plan

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("runs/lightly"))
parser.add_argument("--resume", type=Path)
args = parser.parse_args()
torch.manual_seed(0)

x, y = load_digits(return_X_y=True)
x = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
view = Compose([ToPILImage(), RandomAffine(15, translate=(0.12, 0.12), scale=(0.8, 1.2)), ToTensor()])
transform, batch_size, epochs = MultiViewTransform([view, view]), 256, 10
collate = lambda images: default_collate([transform(image) for image in images])  # noqa: E731
loader = DataLoader(x[:1437], batch_size, shuffle=True, drop_last=True, collate_fn=collate)

backbone = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.Flatten())
model, criterion = nn.Sequential(backbone, BarlowTwinsProjectionHead(512, 256, 256)), BarlowTwinsLoss()
p = plan(batch_size, 1437, epochs)
optimizer = TVLARS(layer_groups(model, p), **p.optimizer_arguments())
first = 0
if args.resume:
    checkpoint = torch.load(args.resume, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])  # momentum and the clock of φ
    first = checkpoint["epoch"]
args.out.mkdir(parents=True, exist_ok=True)
for epoch in range(first, epochs):
    torch.manual_seed(epoch)  # order and views of an epoch are a function of it, in a resumed run too
    for x0, x1 in loader:
        loss = criterion(model(x0), model(x1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch + 1}: loss {loss:.3f}")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
    torch.save(state, args.out / f"epoch-{epoch + 1}.pt")
features = backbone.eval()(x).detach().numpy()
probe = LogisticRegression(max_iter=300).fit(features[:1437], y[:1437])
print(f"linear probe: test accuracy {probe.score(features[1437:], y[1437:]):.1%}")
