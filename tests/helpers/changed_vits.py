"""A timm ViT whose operations are replaced, so that autograd gives changed gradients and attention.

Independent of `explain`: timm's own forward with other modules in it, and detached parts.
"""

import copy
from types import SimpleNamespace

import torch
from small_vits import make_vit
from timm.layers import AttentionPoolLatent
from timm.layers.attention import Attention
from torch import nn
from torch.nn import functional as F

STRUCTURES = {
    "class token": dict(),
    "LayerScale": dict(init_values=0.7),
    "norm_pre": dict(pre_norm=True),
    "registers": dict(reg_tokens=2),
    "no_embed_class": dict(no_embed_class=True, reg_tokens=1),
    "q and k norm": dict(qk_norm=True),
    "mean": dict(global_pool="avg"),
    "mean, no fc_norm": dict(global_pool="avg", fc_norm=False),
    "mean, no class token": dict(global_pool="avg", class_token=False),
    "mean with prefix": dict(global_pool="avg", pool_include_prefix=True),
    "fc_norm": dict(fc_norm=True),
    "no norm at the end": dict(final_norm=False),
    "no positions": dict(pos_embed="none"),
    "norm of patches": dict(embed_norm_layer=nn.LayerNorm),
    "quick GELU": dict(act_layer="quick_gelu"),
    "tanh GELU": dict(act_layer="gelu_tanh"),
    "no qkv bias": dict(qkv_bias=False),
    "attention pooling": dict(global_pool="map", class_token=False),
    "attention pooling with prefix": dict(global_pool="map", reg_tokens=1, pool_include_prefix=True),
    "attention pooling without prefix": dict(global_pool="map", reg_tokens=1, qk_norm=True),
    "two heads": dict(distilled=True),
    "two heads, fc_norm that timm leaves out": dict(distilled=True, fc_norm=True),
}

PLAIN = SimpleNamespace(deviation=False, secant=False, halved=False, constant=False, gamma=0.0, gamma_patch=0.0)


def changed(**operations) -> SimpleNamespace:
    """Which operations differ from timm's, in their gradients alone."""
    return SimpleNamespace(**{**vars(PLAIN), **operations})


def attnlrp_changes(gamma=0.0, gamma_patch=0.0) -> SimpleNamespace:
    return changed(deviation=True, secant=True, halved=True, gamma=gamma, gamma_patch=gamma_patch)


def cp_lrp_changes(gamma=0.0, gamma_patch=0.0) -> SimpleNamespace:
    return changed(deviation=True, secant=True, constant=True, gamma=gamma, gamma_patch=gamma_patch)


def gamma_linear(x, weight, bias, gamma):
    """z in value; in gradient the gamma rule's contributions, divided by their sum."""
    z = F.linear(x, weight, bias)
    bias = torch.zeros(len(weight), dtype=x.dtype) if bias is None else bias
    plus, minus = x.clamp(min=0), x.clamp(max=0)
    above, below = weight + gamma * weight.clamp(min=0), weight + gamma * weight.clamp(max=0)
    positive = plus @ above.T + minus @ below.T + bias + gamma * bias.clamp(min=0)
    negative = plus @ below.T + minus @ above.T + bias + gamma * bias.clamp(max=0)
    total = torch.where(z > 0, positive, negative)
    return total * (z / total).detach()


class ChangedLinear(nn.Module):
    def __init__(self, linear, gamma):
        super().__init__()
        self.linear, self.gamma = linear, gamma

    def forward(self, x):
        return gamma_linear(x, self.linear.weight, self.linear.bias, self.gamma)


class ChangedConvolution(nn.Module):
    def __init__(self, conv, gamma):
        super().__init__()
        self.conv, self.gamma = conv, gamma

    def forward(self, x):
        grid = [size // step for size, step in zip(x.shape[-2:], self.conv.stride)]
        columns = F.unfold(x, self.conv.kernel_size, stride=self.conv.stride).mT
        result = gamma_linear(columns, self.conv.weight.flatten(1), self.conv.bias, self.gamma)
        return result.mT.unflatten(-1, grid)


class ChangedNorm(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.pow(2).mean(-1, keepdim=True) + self.norm.eps).sqrt().detach()
        return centred / deviation * self.norm.weight + self.norm.bias


class ChangedActivation(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return x * (self.act(x) / x).detach()


class ChangedAttention(nn.Module):
    """Attention or attention pooling of timm, that keeps A in autograd's graph."""

    def __init__(self, attn, changes, kept):
        super().__init__()
        self.attn, self.changes, self.kept = attn, changes, kept

    def half(self, x):
        return x / 2 + (x / 2).detach() if self.changes.halved else x

    def mix(self, query, key, value):
        query, key = self.attn.q_norm(query), self.attn.k_norm(key)
        scores = self.half(query) @ self.half(key).mT * query.shape[-1] ** -0.5
        attention = scores.softmax(-1)
        attention = attention.detach().requires_grad_() if self.changes.constant else attention
        self.kept.append(attention)
        return (self.half(attention) @ self.half(value)).transpose(1, 2).flatten(2)

    def heads(self, x, count):
        return x.unflatten(-1, (count, self.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x, attn_mask=None, is_causal=False):
        if isinstance(self.attn, Attention):
            return self.attn.proj(self.mix(*self.heads(self.attn.qkv(x), 3)))
        query = self.heads(self.attn.q(self.attn.latent).expand(len(x), -1, -1), 1)
        x = self.attn.proj(self.mix(*query, *self.heads(self.attn.kv(x), 2)))
        return (x + self.attn.mlp(self.attn.norm(x)))[:, 0]


def changed_vit(model, changes=PLAIN):
    """A copy of a model with changed operations, and the list that each forward pass appends its attentions to."""
    model, kept = copy.deepcopy(model), []
    for path, module in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        parent = model.get_submodule(parent)
        if isinstance(module, nn.LayerNorm) and changes.deviation:
            setattr(parent, name, ChangedNorm(module))
        if name == "act" and changes.secant:
            setattr(parent, name, ChangedActivation(module))
        if name in ("fc1", "fc2") and changes.gamma:
            setattr(parent, name, ChangedLinear(module, changes.gamma))
        if path == "patch_embed.proj" and changes.gamma_patch:
            setattr(parent, name, ChangedConvolution(module, changes.gamma_patch))
    for path, module in list(model.named_modules()):
        if isinstance(module, (Attention, AttentionPoolLatent)):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, ChangedAttention(module, changes, kept))
    return model, kept


def input_times_gradient(model, image, weights, changes=PLAIN):
    """Pixels times gradient of weights (C,) times logits, summed over each patch: (grid_h, grid_w)."""
    model, _ = changed_vit(model, changes)
    pixels = image[None].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((model(pixels) * weights).sum(), pixels)
    product = (pixels * gradient).detach().sum(1, keepdim=True)
    return F.avg_pool2d(product, model.patch_embed.patch_size, divisor_override=1)[0, 0]


def make_structure(name: str, **changes) -> nn.Module:
    return make_vit(**STRUCTURES[name], **changes)
