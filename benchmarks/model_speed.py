"""Images per second of training, for each model of the laboratory, on this machine.

    python benchmarks/model_speed.py

A turn is an epoch of the laboratory's loop on random images of 28 x 28 pixels, with small-image stems. Small models get
more images, so that each takes about as long.
"""

from __future__ import annotations

from harness import asked, options, spread
from workloads import LabTurn, Workload

IMAGES = {"small_resnet": 16_384, "resnet18": 512, "resnet34": 512, "resnet50": 256, "efficientnet_b0": 512}


def main() -> None:
    parser = options(__doc__, ["models"], count=3)
    parser.add_argument("--models", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--batch-size", type=int, default=256)
    arguments = parser.parse_args()
    for results, name in asked(arguments):
        table = results.table(name, batch_size=arguments.batch_size)
        for model in arguments.models:
            if results.late or not results.missing(table, model):
                continue
            workload = Workload(model, IMAGES[model], arguments.batch_size, 28, 2, device=arguments.device)
            turn = LabTurn(workload)
            (seconds,) = results.measure(table, {model: turn}, model).values()
            parameters = sum(p.numel() for p in workload.build_model().parameters())
            speed = spread([workload.images / s for s in seconds])
            results.row(table, model, **{"parameters": parameters, "images/s": speed, "computes in": turn.said})


if __name__ == "__main__":
    main()
