"""layer_groups: who is adapted and decayed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tvlars import LARS, layer_groups, plan


class Custom(nn.Module):
    """Parameters of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.deep = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((2, 2)), nn.GroupNorm(2, 4), nn.RMSNorm(4))
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.recurrent = nn.GRU(4, 4)
        self.embedding = nn.Embedding(5, 4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.layer_scale = nn.Parameter(torch.ones(4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_by_module_type() -> None:
    adapted, other = layer_groups(Custom(), weight_decay=0.1)
    assert adapted["param_names"] == [
        "conv.weight",
        "deep.0.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "embedding.weight",  # tied with the head: once
    ]
    assert other["param_names"] == [
        "class_token",
        "layer_scale",
        "conv.bias",
        "bn.weight",
        "bn.bias",
        "deep.0.bias",
        "deep.1.weight",  # a LayerNorm's is 2-d here, and still a norm's
        "deep.1.bias",
        "deep.2.weight",
        "deep.2.bias",
        "deep.3.weight",
        "attention.in_proj_bias",
        "attention.bias_k",
        "attention.bias_v",
        "attention.out_proj.bias",
        "recurrent.bias_ih_l0",
        "recurrent.bias_hh_l0",
    ]
    assert (adapted["weight_decay"], adapted["layer_adaptation"]) == (0.1, True)
    assert (other["weight_decay"], other["layer_adaptation"]) == (0.0, False)
    assert "lr" not in adapted


def test_lr_and_scale() -> None:
    model = nn.Linear(2, 2)
    adapted, other = layer_groups(model, weight_decay=0.1, lr=16.0, bias_norm_lr_scale=0.03)
    assert (adapted["lr"], other["lr"]) == (16.0, pytest.approx(0.48))
    optimizer = LARS(layer_groups(model, weight_decay=0.1, lr=16.0, bias_norm_lr_scale=0.03), lr=1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [16.0, pytest.approx(0.48)]
    assert [group["layer_adaptation"] for group in optimizer.param_groups] == [True, False]


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW])
def test_any_torch_optimizer_takes_the_groups(cls: type[torch.optim.Optimizer]) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))  # the second group is empty
    optimizer = cls(layer_groups(model, weight_decay=0.1), lr=0.1)  # type: ignore[call-arg]
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def test_str_says_who_went_where() -> None:
    text = str(
        layer_groups(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), weight_decay=0.1, lr=8.0, bias_norm_lr_scale=0.5
        )
    )
    assert text.splitlines() == [
        "adapted and decayed: 1 layer, 18 parameters, weight decay 0.1, lr 8",
        "  0.weight  (2, 1, 3, 3)",
        "neither (biases, norms, tokens, ...): 3 layers, 6 parameters, weight decay 0, lr 4",
        "  0.bias    (2,)",
        "  1.weight  (2,)",
        "  1.bias    (2,)",
    ]


def test_a_parameter_in_two_modules_is_taken_once() -> None:
    groups = layer_groups(Custom(), weight_decay=0.0)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))


class Holder(nn.Module):
    """A module that holds parameters itself, by name and shape."""

    def __init__(self, **shapes: Any) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.ones(shape)))


def adapted(model: nn.Module, **patterns: Any) -> set[str]:
    return set(layer_groups(model, weight_decay=0.1, **patterns)[0]["param_names"])


class GRN(Holder): ...


class ChannelNorm(Holder): ...


class LayerNormChannels(Holder): ...


class MultiHeadRMSNorm(Holder): ...


class LearnedPositionalEmbedding(nn.Embedding): ...


class Conv1D(Holder): ...


class LoraLinear(nn.Linear):
    def __init__(self, rank: int) -> None:
        super().__init__(6, 4)
        self.lora_A = nn.Parameter(torch.ones(rank, 6))
        self.lora_B = nn.Parameter(torch.zeros(4, rank))
        self.magnitude = nn.Parameter(torch.ones(4, 1))
        self.weight_scale = nn.Parameter(torch.ones(4, 3))
        self.scale = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GRN(gamma=(1, 1, 1, 4), beta=(1, 1, 1, 4)), set()),
        (ChannelNorm(weight=(1, 4, 1, 1), bias=(1, 4, 1, 1)), set()),
        (nn.Sequential(LayerNormChannels(weight=(4, 7, 7), bias=(4, 7, 7))), {"0.weight"}),  # its name says no norm
        (nn.ModuleDict({"norm": LayerNormChannels(weight=(4, 7, 7), bias=(4, 7, 7))}), set()),
        (MultiHeadRMSNorm(g=(8, 1, 4)), set()),
        (nn.LayerNorm((4, 4)), set()),
        (Holder(layer_scale=(4, 1, 1), gamma_1=(6, 4), alpha=(4, 8), scale_shift_table=(6, 4), gate=(1,)), set()),
        (Holder(logit_scale=(3, 1, 1), temperature=(4, 1, 1), sinks=8, A_log=(4, 3), D=4, dt_bias=4), set()),
        (Holder(relative_position_bias_table=(9, 3), rel_pos_h=(27, 4), height_rel=(23, 4)), set()),
        (Holder(attention_biases=(8, 9), cls_token=(1, 1, 4), reg_token=(1, 4, 4), register_tokens=(4, 4)), set()),
        (Holder(class_embedding=(2, 4), latents=(5, 4), query_tokens=(1, 5, 4), queries=(5, 4)), set()),
        (Holder(pos_embed=(1, 9, 4), pos_embedding=(9, 4), position_embeddings=(9, 4), spatial_pos=(9, 4)), set()),
        (Holder(unknown=(1, 9, 4)), set()),  # broadcast over the batch
        (Holder(weight=(1, 8, 4, 3, 3)), {"weight"}),  # a modulated convolution's
        (Holder(text_projection=(4, 4), up_proj=(3, 4, 8), up_proj_bias=(3, 8)), {"text_projection", "up_proj"}),
        (Holder(w1=(3, 4, 8), b1=(3, 8), w2=(3, 8, 4), b2=(3, 4)), {"w1", "w2"}),  # experts
        (Holder(a=(4, 2), b=(2, 4)), {"a", "b"}),  # factors
        (Conv1D(weight=(6, 1), bias=1), {"weight"}),  # as that of transformers
        (nn.Sequential(nn.Linear(4, 1), nn.Conv2d(4, 4, 1, groups=4)), {"0.weight", "1.weight"}),
        (nn.Bilinear(2, 2, 1), {"weight"}),
        (LoraLinear(2), {"weight", "lora_A", "lora_B"}),
        (nn.ModuleDict({"lora_B": nn.ParameterDict({"default": torch.ones(4, 1)})}), {"lora_B.default"}),
        (Holder(lora_down=(1, 4), lora_up=(4, 1), lora_magnitude_vector=4, lora_a_bias=4), {"lora_down", "lora_up"}),
        (LoraLinear(1), {"weight", "lora_A", "lora_B"}),
        (nn.ModuleDict({"embed_tokens": nn.Embedding(9, 4)}), {"embed_tokens.weight"}),
        (nn.ModuleDict({"token_type_embeddings": nn.Embedding(2, 4)}), {"token_type_embeddings.weight"}),
        (nn.ModuleDict({"wpe": nn.Embedding(9, 4), "relative_attention_bias": nn.Embedding(32, 8)}), set()),
        (nn.ModuleDict({"mask_tokens": nn.Embedding(4, 8), "position_embeddings": nn.EmbeddingBag(4, 8)}), set()),
        (nn.ModuleDict({"no_mask_embed": nn.Embedding(1, 4), "user_bias": nn.Embedding(9, 1)}), set()),
        (nn.ModuleDict({"embed": LearnedPositionalEmbedding(9, 4)}), set()),
        (nn.ModuleDict({"image_position_embed": nn.ModuleDict({"rows": nn.Embedding(9, 4)})}), set()),
        (nn.ModuleDict({"norm": nn.ModuleDict({"scale": nn.Embedding(4, 8), "shift": nn.Embedding(4, 8)})}), set()),
        (nn.ModuleDict({"pos_embedding": nn.ModuleDict({"weights": nn.ParameterList([torch.ones(9, 4)])})}), set()),
        (Holder(A_log=(2, 3, 4), D=(2, 3), x_proj_weight=(2, 4, 3)), {"x_proj_weight"}),  # heads of a Mamba
        (Holder(q=(8, 2, 4), seg_embed=(2, 2, 4), latent_query=(3, 4), latents_1d=(3, 4)), {"q"}),
        (nn.ModuleDict({"pos_embed": nn.Linear(4, 4, bias=False)}), {"pos_embed.weight"}),  # a map all the same
        (nn.ModuleDict({"pos_embeds": nn.ParameterList([torch.ones(9, 4)])}), set()),
        (nn.ModuleDict({"experts": nn.ParameterList([torch.ones(9, 4)])}), {"experts.0"}),
        (nn.LSTM(4, 3, proj_size=2), {"weight_ih_l0", "weight_hh_l0", "weight_hr_l0"}),
        (nn.RNN(4, 1, bidirectional=True), {f"weight_{k}_l0{d}" for k in ("ih", "hh") for d in ("", "_reverse")}),
        (nn.GRUCell(4, 1), {"weight_ih", "weight_hh"}),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=2, add_bias_kv=True),
            {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
        ),
    ],
)  # fmt: skip
def test_by_role(model: nn.Module, expected: set[str]) -> None:
    assert adapted(model) == expected


def squared(module: nn.Module, name: str) -> nn.Module:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    return nn.utils.parametrize.register_parametrization(module, name, Square())


def factored(module: nn.Module) -> nn.Module:
    class Direction(nn.Module):
        def forward(self, length: Tensor, direction: Tensor) -> Tensor:
            return length * direction

        def right_inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.norm(dim=1, keepdim=True), x / x.norm(dim=1, keepdim=True)

    return nn.utils.parametrize.register_parametrization(module, "weight", Direction())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), {"original1"}),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 1)), {"original1"}),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), {"original"}),
        (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 4)), {"original"}),
        (lambda: squared(nn.Linear(3, 4), "weight"), {"original"}),
        (lambda: squared(nn.Linear(3, 4), "bias"), {"weight"}),
        (lambda: squared(nn.LayerNorm((3, 4)), "weight"), set()),
        (lambda: squared(Holder(cls_token=(2, 4)), "cls_token"), set()),
        (lambda: factored(nn.Linear(3, 4)), {"original1"}),
        (lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), {"weight_v"}),
        (lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), {"weight_orig"}),
        (lambda: prune.l1_unstructured(nn.Linear(3, 4), "weight", 0.5), {"weight_orig"}),
        (lambda: prune.l1_unstructured(nn.Linear(3, 4), "bias", 0.5), {"weight"}),
        (lambda: prune.l1_unstructured(nn.LSTM(3, 4), "weight_hh_l0", 0.5), {"weight_ih_l0", "weight_hh_l0_orig"}),
    ],
)
def test_what_makes_a_weight_has_its_role(build: Callable[[], nn.Module], expected: set[str]) -> None:
    for model in (build(), nn.Sequential(build())):  # names have no prefix, or one
        assert {name.rpartition(".")[2] for name in adapted(model)} == expected


def test_what_a_model_says_to_leave_undecayed() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.proj = nn.Linear(2, 2), nn.Linear(2, 2)
            self.proj.weight._no_weight_decay = True  # as Mamba's

        def no_weight_decay(self) -> set[str]:
            return {"mlp.weight", "not_there"}

    assert not adapted(Inner())
    assert adapted(nn.Sequential(Inner(), nn.Linear(2, 2))) == {"1.weight"}
    assert adapted(Inner(), adapt="mlp.*") == {"mlp.weight", "mlp.bias"}


WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
WEIGHT = re.compile(r"weight|in_proj_weight|weight_[ih]h_l0(_reverse)?")


def weights_of_layers(model: nn.Module) -> set[str]:
    """Weights of linear, convolution, attention and recurrent modules: all that is to be adapted in vision models."""
    return {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, WEIGHTED)
        for name, _ in module.named_parameters(recurse=False)
        if WEIGHT.fullmatch(name)
    }


TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 "
    "mobilenet_v2 mobilenet_v3_small resnet18 resnext50_32x4d wide_resnet50_2 shufflenet_v2_x0_5 squeezenet1_0 swin_t "
    "swin_v2_t vgg11_bn vit_b_16 fasterrcnn_mobilenet_v3_large_fpn fcos_resnet50_fpn keypointrcnn_resnet50_fpn "
    "maskrcnn_resnet50_fpn retinanet_resnet50_fpn_v2 ssd300_vgg16 ssdlite320_mobilenet_v3_large deeplabv3_resnet50 "
    "fcn_resnet50 lraspp_mobilenet_v3_large mc3_18 r2plus1d_18 r3d_18 s3d mvit_v1_b mvit_v2_s swin3d_t"
)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("name", TORCHVISION.split())
def test_families_of_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models", reason="needs torchvision")
    backbone = {"weights_backbone": None} if re.search("rcnn|fcos|retina|ssd|deeplab|fcn|lraspp", name) else {}
    with torch.device("meta"):
        model = models.get_model(name, weights=None, **backbone)
    assert adapted(model) == weights_of_layers(model)


TIMM = (
    "beit_base_patch16_224 cait_xxs24_224 coat_tiny convnextv2_atto convit_tiny deit_tiny_distilled_patch16_224 "
    "efficientvim_m1 eva02_tiny_patch14_224 gemma4_vit_167m halonet26t hiera_tiny_224 levit_128s maxvit_pico_rw_256 "
    "mvitv2_tiny nest_tiny nfnet_f0 resmlp_12_224 samvit_base_patch16 sequencer2d_s swinv2_tiny_window8_256 "
    "tnt_s_patch16_224 twins_svt_small visformer_tiny volo_d1_224 xcit_nano_12_p8_224 edgenext_xx_small caformer_s18 "
    "test_efficientnet_evos"
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TIMM.split())
def test_families_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="needs timm")
    if name not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {name}")
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    kept = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    assert adapted(model) == weights_of_layers(model) - set(kept)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.Linear(2, 2), dict(weight_decay=-1.0), "weight_decay must be >= 0, got -1.0"),
        (nn.Linear(2, 2), dict(weight_decay=0.0, lr=-2), "lr must be >= 0, got -2"),
        (
            nn.Linear(2, 2),
            dict(weight_decay=0.0, bias_norm_lr_scale=0.1),
            "lr must be given if bias_norm_lr_scale is 0.1, got None",
        ),
        (nn.ReLU(), dict(weight_decay=0.0), "model must have a parameter with requires_grad=True, got none in ReLU"),
        (nn.LazyLinear(3), dict(weight_decay=0.0), "model must have seen an input, but weight is not initialized yet"),
    ],
)
def test_bad_arguments(model: nn.Module, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        layer_groups(model, **arguments)


def test_a_plan_gives_the_numbers() -> None:
    p = plan(512, 50_000, 90, lr=8.0, weight_decay=0.02, bias_norm_lr_scale=0.25)
    adapted, other = layer_groups(nn.Linear(2, 2), p)
    assert (adapted["weight_decay"], adapted["lr"], other["weight_decay"], other["lr"]) == (0.02, 8.0, 0.0, 2.0)


def test_patterns_decide_about_names() -> None:
    adapted, other = layer_groups(Custom(), weight_decay=0.1, adapt="layer_scale", exclude=["conv.*", "*_ih_l0"])
    assert "layer_scale" in adapted["param_names"]
    assert {"conv.weight", "conv.bias", "recurrent.weight_ih_l0"} <= set(other["param_names"])
    assert "recurrent.weight_hh_l0" in adapted["param_names"]


@pytest.mark.parametrize("numbers", [(1e-4,), (1e-4, 16.0), (1e-4, 16.0, 0.03), (16.0, 1e-4), (None, 1e-4)])
def test_numbers_by_position_are_refused_with_the_keyword_form(numbers: tuple[Any, ...]) -> None:
    with pytest.raises(
        TypeError, match=r"got .*1.*; write layer_groups\(model, plan\), or .*weight_decay=1e-4, lr=16.0"
    ):
        layer_groups(nn.Linear(2, 2), *numbers)


P = plan(512, 50_000, 90)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((P, nn.Linear(2, 2)), {}, TypeError, "model must be a torch.nn.Module, got Plan"),
        ((nn.Linear(2, 2).parameters(), P), {}, TypeError, "model must be a torch.nn.Module, got generator"),
        ((nn.Linear(2, 2),), {}, TypeError, "layer_groups needs a plan or weight_decay, got neither"),
        ((nn.Linear(2, 2), P), dict(lr=3.0), TypeError, "got both (plan and lr=3.0): plan(..., lr=3.0) makes"),
        ((nn.Linear(2, 2), P), dict(adapt=3), TypeError, "adapt must be one pattern of parameter names or several"),
        ((nn.Linear(2, 2), P), dict(exclude=[3]), TypeError, "exclude must be one pattern of parameter names or sev"),
        (
            (nn.Linear(2, 2), P),
            dict(exclude="weights"),
            ValueError,
            "got 'weights', which matches none of weight, bias",
        ),
        (
            (nn.Linear(2, 2), P),
            dict(adapt="w*", exclude="*t"),
            ValueError,
            "must not match the same parameter, got weight",
        ),
    ],
)
def test_what_is_no_plan_and_no_pattern(
    arguments: tuple[Any, ...], keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        layer_groups(*arguments, **keywords)
