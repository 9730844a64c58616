"""Models of timm and torchvision, of a user's builder and given modules: trained, recorded, and loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.lab.experiments.forked import fork_runs
from tests.lab.first import first
from tvlars.cli import main
from tvlars.lab import ImageData, Reporter, TrainConfig, UsageError, evaluate, load_run, probe_run, train
from tvlars.lab.models import build_model, check_model, head_of, put_head
from tvlars.lab.report.arms import arm_names
from tvlars.lab.run_folder.record import MODEL, read_object, write_json

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_chans=1, width=8):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

def build(channels, image_size, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, 16), nn.ReLU(), nn.Linear(16, classes))

def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def deep(classes, depth): ...

def number(classes):
    return 3

def fails(classes):
    raise KeyError("mine")

def images(channels, classes):
    return nn.Conv2d(channels, classes, 1)

def reversed_order(image_size, classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, classes))
    net.unused = nn.Linear(classes, classes)
    net.forward = lambda x: net[1](net[0](x))
    return net

built = three()
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "net.py"


@pytest.fixture(scope="module")
def large(digits: ImageData) -> ImageData:
    """Some digits of 32 x 32 pixels."""
    few = first(digits, 256)
    sized = {
        name: getattr(few, name)[:256].repeat_interleave(4, 2).repeat_interleave(4, 3)
        for name in ("train_images", "test_images")
    }
    return ImageData(
        "digits", "digits", sized["train_images"], few.train_labels[:256], sized["test_images"],
        few.test_labels[:256], classes=10, flip=False,
    )  # fmt: skip


def short(model: str, out: Path, **options: Any) -> TrainConfig:
    usual: dict[str, Any] = dict(batch_size=128, epochs=1, precision="32-true", accelerator="cpu")
    return TrainConfig(model=model, out=out, **{**usual, **options})


# -- models of libraries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:test_resnet", {}),
        ("timm:test_vit", dict(img_size=32)),
        ("torchvision:shufflenet_v2_x0_5", None),
        ("torchvision:mobilenet_v3_small", None),
    ],
)
def test_weights_of_a_run_load_into_the_same_model_of_its_library(
    name: str, options: dict[str, Any] | None, large: ImageData, tmp_path: Path
) -> None:
    import timm
    from torchvision import models

    folder = train(short(name, tmp_path / "run"), data=large, reporter=Reporter()).folder
    run = load_run(folder)
    if options is None:
        theirs: Any = models.get_model(name.partition(":")[2], num_classes=10)
        first_name, conv = next((n, m) for n, m in theirs.named_modules() if isinstance(m, nn.Conv2d))
        put_head(theirs, first_name, nn.Conv2d(1, conv.out_channels, 3, 2, 1, bias=False))  # grey images
    else:
        theirs = timm.create_model(name.partition(":")[2], in_chans=1, num_classes=10, **options)
    theirs.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    images = run.normalize(large.test_images[:64])
    with torch.no_grad():
        assert torch.equal(theirs.eval()(images), run.model()(images))
        right = (theirs(run.normalize(large.test_images)).argmax(1) == large.test_labels).float().mean()
    assert run.test_accuracy == pytest.approx(float(right), abs=0.02)


def test_colour_images_need_no_other_stem() -> None:
    from torchvision import models

    model, text = build_model("torchvision:mobilenet_v3_small", 3, 224, 10)
    models.mobilenet_v3_small(num_classes=10).load_state_dict(model.state_dict())
    assert text.startswith("torchvision:mobilenet_v3_small: torchvision's, standard stem (3x3, stride 2), 1,5")


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:test_resnet", "torchvision:resnet18", "resnet18"])
def test_a_small_stem_keeps_the_size_of_images(name: str) -> None:
    model, text = build_model(name, 1, 32, 10, stem="small")
    sizes: list[torch.Size] = []
    model.layer1.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[2:]))  # type: ignore[operator, union-attr]
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert sizes == [torch.Size([32, 32])]
    assert "small-image stem (3x3, stride 1" in text
    standard, _ = build_model(name, 1, 32, 10, stem="standard")
    standard.layer1.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[2:]))  # type: ignore[operator, union-attr]
    standard(torch.zeros(2, 1, 32, 32))
    assert sizes[1][0] < 32


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("timm:convnext_atoo", {}, "unknown model of timm 'convnext_atoo': did you mean 'convnext_atto'"),
        ("torchvision:mobilenetv3_small", {}, "of torchvision 'mobilenetv3_small': did you mean 'mobilenet_v3_small'"),
        ("torchvision:fcn_resnet50", {}, "unknown model of torchvision"),
        ("timm:test_vit", {}, "timm:test_vit does not accept images of 1 x 8 x 8; another image_size"),
        ("torchvision:vit_b_16", {}, "cannot be built for images of image_size 8"),
        ("torchvision:vgg11", {}, "torchvision:vgg11 does not accept images of 1 x 8 x 8"),
        ("timm:test_convnext", {"stem": "small"}, "first convolution cuts images into patches of 4 x 4 pixels"),
        ("torchvision:vgg11", {"stem": "small"}, "first convolution already has stride 1"),
        ("small_resnet", {"stem": "small"}, "stem must not be given for model small_resnet"),
        ("small_resnet", {"pretrained": True}, "pretrained must not be given for model small_resnet"),
        ("torchvision:squeezenet1_1", {"features": True}, "must end in a linear layer with a bias"),
    ],
)
def test_models_that_do_not_suit_are_an_error(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        check_model(name, 1, 32 if "squeeze" in name else 8, 10, **options)


@pytest.mark.parametrize(
    "name",
    ["timm:test_convnext", "timm:test_vit", "timm:test_efficientnet", "torchvision:mobilenet_v2"],
)
def test_the_classifier_comes_off_models_of_libraries(name: str) -> None:
    check_model(name, 1, 32, 7, features=True)
    model, _ = build_model(name, 1, 32, 7)
    path, head = head_of(model)
    assert head.out_features == 7
    put_head(model, path, nn.Identity())
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, head.in_features)


def test_self_supervised_learning_with_a_model_of_timm(large: ImageData, tmp_path: Path) -> None:
    config = short("timm:test_convnext", tmp_path / "run", task="simclr", projector="16-8", evaluations="random-knn")
    run = load_run(train(config, data=large, reporter=Reporter()).folder)
    assert run.model()(run.normalize(large.test_images[:2])).shape == (2, 10)
    assert 0 <= run.evaluations["random-knn"].accuracy <= 1


# -- initial weights --------------------------------------------------------------------------------------------------


def test_pretrained_weights_of_torchvision_come_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    there = models.shufflenet_v2_x0_5()
    file = tmp_path / "hub" / "checkpoints" / Path(models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url).name
    file.parent.mkdir(parents=True)
    torch.save(there.state_dict(), file)
    model, text = build_model("torchvision:shufflenet_v2_x0_5", 1, 64, 10, pretrained=True)
    assert text.endswith("pretrained")
    grey = torch.rand(2, 1, 64, 64)
    put_head(model, "fc", nn.Identity())
    put_head(there, "fc", nn.Identity())
    assert torch.allclose(model.eval()(grey), there.eval()(grey.expand(-1, 3, -1, -1)), atol=1e-5)
    file.write_bytes(b"no weights")
    with pytest.raises(UsageError, match=rf"must be at '{file}' or to be downloaded from https://"):
        build_model("torchvision:shufflenet_v2_x0_5", 1, 64, 10, pretrained=True)


def test_pretrained_weights_of_timm_come_from_the_cache_of_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"must be those of timm/test_resnet\.\w+ of Hugging Face, in the cache"):
        build_model("timm:test_resnet", 1, 32, 10, pretrained=True)
    there = timm.create_model("test_resnet")
    place = tmp_path / f"models--{timm.get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(there.state_dict(), place / "snapshots" / ("0" * 40) / "model.safetensors")
    model, _ = build_model("timm:test_resnet", 3, 32, 10, pretrained=True)
    assert torch.equal(model.layer1[0].conv1.weight, there.layer1[0].conv1.weight)
    with pytest.raises(UsageError, match="timm has no weights"):
        build_model("timm:convnext_atto_rms", 3, 32, 10, pretrained=True)


def test_a_server_that_is_away_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(place: Any, timeout: float) -> Any:
        asked.append(place)
        raise OSError("no network")

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("tvlars.lab.models.timm_models.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.example")
    with pytest.raises(UsageError, match=r"could not be loaded: ConnectionError: hub\.example cannot be reached"):
        build_model("timm:test_resnet", 1, 32, 10, pretrained=True)
    assert asked == [("hub.example", 443)]
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_a_file(suffix: str, tmp_path: Path) -> None:
    there, _ = build_model("small_resnet", 1, 8, 4)
    file = tmp_path / f"there{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{name}": value for name, value in there.state_dict().items()}}, file)
    else:
        save_file(there.state_dict(), file)
    same, text = build_model("small_resnet", 1, 8, 4, weights=file)
    assert all(map(torch.equal, same.state_dict().values(), there.state_dict().values()))
    assert text.endswith(f"weights of {file.name}")
    other, text = build_model("small_resnet", 1, 8, 10, weights=file)
    assert torch.equal(other.stem.weight, there.stem.weight)
    assert text.endswith("without their classifier of 4 classes")
    with pytest.raises(UsageError, match=r"has stem\.weight \(16x1x3x3 there, 16x3x3x3 here\)"):
        build_model("small_resnet", 3, 8, 4, weights=file)
    with pytest.raises(UsageError, match=r"lacks conv1.weight, bn1.weight, bn1.bias and \d+ more and also has"):
        build_model("resnet18", 1, 8, 4, weights=file)


def test_a_run_begins_with_the_weights_of_another(digits: ImageData, tmp_path: Path) -> None:
    before = train(short("small_resnet", tmp_path / "first"), data=digits, reporter=Reporter())
    config = short("small_resnet", tmp_path / "second", weights=before.folder / "weights.pt", lr=1e-20)
    after = train(config, data=digits, reporter=Reporter())
    assert torch.equal(
        *(torch.load(run.folder / "weights.pt", weights_only=True)["head.weight"] for run in (before, after))
    )


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "cannot be read"), (None, "No such file"), ([1, 2], "contains something else"), (nn.ReLU(), "not loaded")],
)
def test_files_that_hold_no_weights(content: Any, match: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    config = short("small_resnet", tmp_path / "run", weights=file)
    with pytest.raises(UsageError, match=match):
        train(config, reporter=Reporter())
    assert not (tmp_path / "run").exists()


def test_initial_weights_have_one_source() -> None:
    with pytest.raises(UsageError, match="weights must not be given with pretrained"):
        TrainConfig(model="timm:test_vit", pretrained=True, weights=Path("x.pt"))


# -- builders of users ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./net.py:build", "./net.py:Net", "net.Net"])
def test_a_users_builder(name: str, net: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(short(name, net.parent / "run"), data=digits, reporter=Reporter())
    monkeypatch.chdir("/")
    run = load_run(result.folder)
    assert run.model()(run.normalize(digits.test_images[:2])).shape == (2, 10)
    assert evaluate(run, device="cpu").accuracy == pytest.approx(result.test_accuracy)
    assert "knn" in probe_run(run, "knn", device="cpu")
    text = read_object(result.folder / "environment.json")["model"]
    assert text.startswith("net." if name == "net.Net" else "net.py:")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("./net.py:biuld", r"unknown model in net.py 'biuld': did you mean 'build'"),
        ("./nat.py:build", "model must name a file that exists, .* Python files there: net.py"),
        ("./net.py:three", r"must return logits, .* \(n, 10\) .* it returns float32 of shape \(2, 3\)"),
        ("./net.py:images", r"it returns float32 of shape \(2, 10, 8, 8\)"),
        ("./net.py:deep", "it also needs depth"),
        ("./net.py:number", "must return an nn.Module, got an object of type int"),
        ("./net.py:built", "is an existing module"),
        ("os:getcwd", "model must be a function or class, but os:getcwd is of type builtin"),
        ("subprocess:Popen", "model must be a class of nn.Module"),
        ("nosuch.pkg:x", "there is no module 'nosuch' here"),
        ("given:Net", r"model must be given again, as in train\(config, model=...\)"),
        ("./net.py", "model must name an object in the file too, as ./net.py:name, got './net.py'"),
    ],
)
def test_builders_that_do_not_suit(name: str, match: str, net: Path, digits: ImageData) -> None:
    with pytest.raises(UsageError, match=match):
        train(short(name, net.parent / "run"), data=digits, reporter=Reporter())
    assert not (net.parent / "run").exists()


def test_a_layer_that_is_no_classifier_is_not_taken_for_one(net: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in a linear layer, .* its last one, unused, does not map"):
        check_model(f"{net}:reversed_order", 1, 8, 10, features=True)


def test_errors_of_a_builder_are_its_own(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError, match="mine"):
        train(short("./net.py:fails", net.parent / "run"), reporter=Reporter())


def test_models_of_a_comparison_and_a_sweep(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fork_runs(monkeypatch)
    common = ["--epochs", "1", "--batch-size", "512"]
    words = ["compare", "--model", "./net.py:Net", "--optimizers", "lars", "sgd", "--out", "both", *common]
    assert main(words) == 0, capsys.readouterr().err
    assert f"{net}:Net" in (net.parent / "both" / "lars-b512-s0" / "config.json").read_text()
    assert "model net.py:Net" not in (net.parent / "both" / "report.html").read_text()
    Path("grid.yaml").write_text("base: {epochs: 1, batch-size: 512}\ngrid: {model: [small_resnet, ./net.py:Net]}\n")
    assert main(["sweep", "grid.yaml", "--out", "grid"]) == 0, capsys.readouterr().err
    assert "(model net.py:Net)" in (net.parent / "grid" / "report.html").read_text()


def test_code_in_a_run_folder_is_not_run(net: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(short("./net.py:build", net.parent / "run"), data=digits, reporter=Reporter()).folder
    (folder / "evil.py").write_text("raise SystemExit('code was run')")
    monkeypatch.chdir(folder)
    for name in (f"{folder}/evil.py:build", "evil:build", "evil.build"):
        for file in (MODEL, "config.json"):
            values = json.loads((folder / file).read_text())
            write_json(folder / file, {k: v for k, v in {**values, "model": name}.items() if k != "digest"})
        with pytest.raises(UsageError, match="code in a run folder is not run"):
            load_run(folder).model()


# -- modules given in Python ------------------------------------------------------------------------------------------


class Plain(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 8, 3), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_a_module_is_trained_as_a_copy(digits: ImageData, tmp_path: Path) -> None:
    module = Plain(1, 10)
    before = module.head.weight.clone()
    results = [
        train(short("small_resnet", tmp_path / name), data=digits, model=module, reporter=Reporter()) for name in "ab"
    ]
    assert torch.equal(module.head.weight, before)
    assert results[0].epochs[0].train_loss == results[1].epochs[0].train_loss
    assert results[0].config.model == "given:Plain"
    with pytest.raises(UsageError, match=r"model must be given again, .* since it was the Plain that train was"):
        load_run(tmp_path / "a").model()
    run = load_run(tmp_path / "a", model=module)
    assert evaluate(run, device="cpu").accuracy == pytest.approx(results[0].test_accuracy)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            {"model": "timm:test_resnet"},
            r"model must be a module or a function .* got 'timm:test_resnet': a name goes",
        ),
        ({"metrics": [nn.Identity()]}, r"metrics must be a dictionary of metrics by name, as \{'f1': \.\.\.\}, got"),
    ],
)
def test_objects_of_another_kind_are_one_sentence(
    given: dict[str, Any], match: str, digits: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=match):
        train(TrainConfig(out=tmp_path / "run"), data=digits, reporter=Reporter(), **given)
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_module_resumes_with_it(digits: ImageData, tmp_path: Path) -> None:
    module = Plain(1, 10)
    config = short("small_resnet", tmp_path / "run", checkpoint_every="1-steps")
    whole = train(config, data=digits, model=module, reporter=Reporter())
    (whole.folder / "weights.pt").unlink()
    again = short("given:Plain", tmp_path / "run", checkpoint_every="1-steps", resume=True)
    with pytest.raises(UsageError, match="model must be given again"):
        train(again, data=digits, reporter=Reporter())
    assert train(again, data=digits, model=module, reporter=Reporter()).test_accuracy == whole.test_accuracy


def test_a_function_builds_the_model_of_each_seed(digits: ImageData, tmp_path: Path) -> None:
    def build(channels: int, classes: int) -> nn.Module:
        return Plain(channels, classes)

    losses = [
        train(short("small_resnet", tmp_path / str(s), seed=s), data=digits, model=build, reporter=Reporter())
        .epochs[0].train_loss
        for s in (0, 1)
    ]  # fmt: skip
    assert losses[0] != losses[1]
    assert load_run(tmp_path / "0", model=build).model()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_lazy_layers_get_their_sizes(net: Path) -> None:
    def build(classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

    model, text = build_model("given:build", 1, 8, 10, given=build)
    assert model[1].weight.shape == (10, 64)  # type: ignore[index]
    assert "650 parameters" in text


def test_arms_tell_files_of_one_name_apart() -> None:
    configs = [TrainConfig(model=f"/{name}.py:build") for name in ("a/net", "b/net", "a/mlp")]
    assert arm_names(configs) == [
        "tvlars (model /a/net.py:build)", "tvlars (model /b/net.py:build)", "tvlars (model mlp.py:build)"
    ]  # fmt: skip
    weights = [TrainConfig(weights=Path(f"/{name}/weights.pt")) for name in "ab"]
    assert arm_names(weights) == ["tvlars (weights /a/weights.pt)", "tvlars (weights /b/weights.pt)"]
