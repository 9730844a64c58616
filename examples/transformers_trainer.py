"""TVLARS in the transformers Trainer: a tiny ResNet, randomly initialized, on digits.

Run it, and run it again from the middle:
    python examples/transformers_trainer.py
    python examples/transformers_trainer.py --resume runs/transformers/checkpoint-50
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed

from tvlars import TVLARS, layer_groups, plan
from tvlars.integrations.transformers import NoiseScaleCallback, PhiCallback, add_first


class Digits(Dataset):
    def __init__(self, part):
        x, y = load_digits(return_X_y=True)
        self.x, self.y = torch.tensor(x[part]).float().reshape(-1, 1, 8, 8) / 16, torch.tensor(y[part])

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {"pixel_values": self.x[i], "labels": self.y[i]}


def accuracy(e):
    return {"accuracy": (e.predictions.argmax(1) == e.label_ids).mean()}


parser = argparse.ArgumentParser()
parser.add_argument("--out", default="runs/transformers")
parser.add_argument("--resume")
args = parser.parse_args()
set_seed(0)
config = ResNetConfig(num_channels=1, embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], num_labels=10)
model = ResNetForImageClassification(config)
train, test, epochs = Digits(slice(1280)), Digits(slice(1280, None)), 15
p = plan(256, len(train), epochs)
optimizer = TVLARS(layer_groups(model, p), **p.optimizer_arguments())
arguments = TrainingArguments(
    args.out,
    use_cpu=True,
    num_train_epochs=epochs,
    per_device_train_batch_size=128,
    gradient_accumulation_steps=2,
    lr_scheduler_type="constant",  # φ is in the optimizer, and the default would multiply it by a linear decay
    max_grad_norm=0.0,  # the default clips at 1.0, which the trust ratio takes back in all but biases and norms
    save_steps=25,
    logging_steps=5,
)
trainer = Trainer(model, arguments, train_dataset=train, optimizers=(optimizer, None), compute_metrics=accuracy)
add_first(trainer, PhiCallback(), NoiseScaleCallback(every=5))  # in the progress bar, logs and reports
trainer.train(resume_from_checkpoint=args.resume)
print(f"test accuracy {trainer.evaluate(test)['eval_accuracy']:.1%}")
