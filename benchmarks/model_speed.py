"""Images per second of training, for each model of the laboratory, on this machine.

    python benchmarks/model_speed.py

Trains each model twice over some Fashion-MNIST images (28 x 28, small-image stems) and takes the second epoch; the test
is not counted. Small models get more images, so that each takes about as long.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from tvlars.lab import Reporter, TrainConfig, load_data, train

IMAGES = {"small_resnet": 16_384, "resnet18": 512, "resnet34": 512, "resnet50": 256, "efficientnet_b0": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--accelerator", default="auto")
    arguments = parser.parse_args()
    data = load_data("fashion-mnist")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch size {arguments.batch_size}")
    print("| model | parameters | images/s |\n|---|---|---|")
    for model in arguments.models:
        count = IMAGES[model]
        part = replace(
            data,
            train_images=data.train_images[:count],
            train_labels=data.train_labels[:count],
            test_images=data.test_images[:64],
            test_labels=data.test_labels[:64],
        )
        config = TrainConfig("fashion-mnist", model=model, batch_size=arguments.batch_size, epochs=2)
        config = replace(config, accelerator=arguments.accelerator)
        with tempfile.TemporaryDirectory() as folder:
            result = train(config, data=part, folder=Path(folder), reporter=Reporter())
            weights = torch.load(Path(folder) / "weights.pt", weights_only=True)
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        parameters = sum(x.numel() for name, x in weights.items() if not name.endswith(buffers))
        print(f"| {model} | {parameters:,} | {result.epochs[-1].images_per_second:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
