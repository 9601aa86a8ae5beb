"""Slow, obvious relevance for one image and one target, written as the formulas are.

Independent of `explain`: its own forward pass, gradients by autograd, loops over tokens and heads. LayerNorm (of
tokens, queries and keys), LayerScale and activations pass relevance on unchanged, so they appear in `forward` alone.
"""

import torch
from torch.nn import functional as F

TINY = 1e-9


def published_divide(r: float, z: float) -> float:
    """r / (z + 1e-9), 1e-9 where that sum is 0, and 0 where z is 0."""
    if z == 0:
        return 0.0
    return r / (z + TINY if z + TINY != 0 else TINY)


def signed_divide(r: float, z: float) -> float:
    if z == 0:
        return 0.0
    return r / (z + TINY if z > 0 else z - TINY)


def each(function, *tensors):
    """Apply a function of floats to every element."""
    flat = [function(*values) for values in zip(*(tensor.flatten().tolist() for tensor in tensors))]
    return torch.tensor(flat, dtype=torch.float64).view(tensors[0].shape)


def linear(r, x, weight, divide):
    """z+ rule, x (N, in), r (N, out): loops over tokens, outputs and inputs."""
    result = [[0.0] * x.shape[1] for _ in x]
    for found, inputs, relevances_out in zip(result, x.tolist(), r.tolist()):
        for weights, relevance in zip(weight.tolist(), relevances_out):
            parts = [max(value * w, 0.0) for value, w in zip(inputs, weights)]
            over = divide(relevance, sum(parts))
            for i, part in enumerate(parts):
                found[i] += part * over
    return torch.tensor(result, dtype=torch.float64)


def add(r, a, b, magnitude):
    if magnitude:
        over = each(signed_divide, r, a.abs() + b.abs())
        return a.abs() * over, b.abs() * over
    first, second = a * each(published_divide, r, a + b), b * each(published_divide, r, a + b)
    first_sum, second_sum, total = (float(t.sum()) for t in (first, second, r))
    absolute = abs(first_sum) + abs(second_sum)
    first_share = published_divide(abs(first_sum), absolute) * total
    second_share = published_divide(abs(second_sum), absolute) * total
    return (first * published_divide(first_share, first_sum), second * published_divide(second_share, second_sum))


def copied(r, x, magnitude):
    """The published code's x * (r / x) where |x| < 1e-6; elsewhere unchanged."""
    if magnitude:
        return r
    return each(lambda value, at: at * published_divide(value, at) if abs(at) < 1e-6 else value, r, x)


def product(r, left, right, magnitude):
    """z = left @ right: (R_left, R_right), each halved."""
    if magnitude:
        left, right = left.abs(), right.abs()
    share = each(signed_divide if magnitude else published_divide, r, left @ right).tolist()
    left, right = left.tolist(), right.tolist()
    left_r, right_r = ([[0.0] * len(row) for row in factor] for factor in (left, right))
    for m, row in enumerate(left):
        for p, inner in enumerate(right):
            for n, value in enumerate(inner):
                left_r[m][p] += row[p] * share[m][n] * value / 2
                right_r[p][n] += row[p] * share[m][n] * value / 2
    return torch.tensor(left_r, dtype=torch.float64), torch.tensor(right_r, dtype=torch.float64)


def mean(r, x):
    """Mean over tokens, x (N, D), r (1, D): each token's part is its share of the channel's magnitudes."""
    channels = [
        [abs(value) * signed_divide(relevance, sum(map(abs, values))) for value in values]
        for values, relevance in zip(x.T.tolist(), r[0].tolist())
    ]
    return torch.tensor(channels, dtype=torch.float64).T


def forward(model, image):
    """All tokens through all blocks, keeping what the backward passes need; A in autograd's graph."""
    x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0].detach().requires_grad_(True)
    records = []
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        record = dict(block=block, x=x, normed1=block.norm1(x))
        q, k, v = attn.qkv(record["normed1"]).view(len(x), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
        q, k = attn.q_norm(q), attn.k_norm(k)
        attention = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        joined = torch.cat(list(attention @ v), dim=-1)
        attended = block.ls1(attn.proj(joined))
        middle = x + attended
        normed2 = block.norm2(middle)
        hidden = mlp.act(mlp.fc1(normed2))
        output = block.ls2(mlp.fc2(hidden))
        record.update(
            q=q,
            k=k,
            v=v,
            attention=attention,
            joined=joined,
            attended=attended,
            middle=middle,
            normed2=normed2,
            hidden=hidden,
            output=output,
        )
        records.append(record)
        x = middle + output
    normed = model.norm(x)
    return records, normed, model.forward_head(normed[None])[0]


def pooled_tokens(model, normed):
    """The tokens that pooling reads: the mean's, or one for each head."""
    if model.global_pool == "avg":
        return slice(0 if model.pool_include_prefix else model.num_prefix_tokens, len(normed))
    return slice(0, len(heads(model)))


def heads(model):
    return (model.head, model.head_dist) if hasattr(model, "head_dist") else (model.head,)


def start(model, normed, target, divide):
    """Relevance of the tokens (N, D) that leave the last norm, from one-hot at the target's logit.

    The logit of two heads is the mean of theirs: one output of both of their tokens.
    """
    read = normed[pooled_tokens(model, normed)]
    averaged, distilled = model.global_pool == "avg", len(heads(model)) > 1
    at_head = read.mean(0, keepdim=True) if averaged else read
    at_head = at_head if distilled else model.fc_norm(at_head)
    row = torch.cat([head.weight[target] for head in heads(model)]) / len(heads(model))
    r = linear(torch.ones(1, 1, dtype=torch.float64), at_head.reshape(1, -1), row[None], divide).view_as(at_head)
    result = torch.zeros_like(normed)
    result[pooled_tokens(model, normed)] = mean(r, read) if averaged else r
    return result


def relevances(model, records, normed, target, magnitude, with_rest=False):
    """Relevance of A (h, N, N) for every block, first to last; with what arrives at block 0, if asked."""
    divide, found = signed_divide if magnitude else published_divide, []
    r = start(model, normed, target, divide)
    for rec in reversed(records):
        mlp, attn = rec["block"].mlp, rec["block"].attn
        r, branch = add(r, rec["middle"], rec["output"], magnitude)
        branch = linear(branch, rec["hidden"], mlp.fc2.weight, divide)
        r = copied(r + linear(branch, rec["normed2"], mlp.fc1.weight, divide), rec["middle"], magnitude)
        r, branch = add(r, rec["x"], rec["attended"], magnitude)
        branch = linear(branch, rec["joined"], attn.proj.weight, divide)
        parts, below = branch.chunk(attn.num_heads, dim=-1), [[], [], []]
        block_r = []
        for head, part in enumerate(parts):
            attention_r, value_r = product(part, rec["attention"][head], rec["v"][head], magnitude)
            query_r, key_r = product(attention_r, rec["q"][head], rec["k"][head].T, magnitude)
            block_r.append(attention_r)
            for found_parts, one in zip(below, (query_r, key_r.T, value_r)):
                found_parts.append(one)
        found.insert(0, torch.stack(block_r))
        joined = torch.cat([torch.cat(one, dim=-1) for one in below], dim=-1)
        r = copied(r + linear(joined, rec["normed1"], attn.qkv.weight, divide), rec["x"], magnitude)
    return (found, r) if with_rest else found


def detached(records):
    return [
        {key: value.detach() if torch.is_tensor(value) else value for key, value in record.items()}
        for record in records
    ]


def slow_map(model, image, target, method, start_block=0):
    """One map (grid_h, grid_w): the whole N x N product of (I + C_b), then the mean of the rows that pooling reads."""
    records, normed, logits = forward(model, image)
    gradients = torch.autograd.grad(logits[target], [record["attention"] for record in records])
    records, normed = detached(records), normed.detach()
    if method == "gradient_attention":
        factors = [record["attention"] for record in records]
    else:
        factors = relevances(model, records, normed, target, method == "lrp_magnitude")
    total = torch.eye(len(normed), dtype=torch.float64)
    for gradient, factor in list(zip(gradients, factors))[start_block:]:
        total = (torch.eye(len(total)) + (gradient * factor).clamp(min=0).mean(0)) @ total
    row = total[pooled_tokens(model, normed)].mean(0)
    return row[model.num_prefix_tokens :].view(model.patch_embed.grid_size)


def slow_pool(model, tokens, target, magnitude):
    """Attention pooling of tokens (N, D): relevance of its A (h, 1, N), and of the tokens (N, D)."""
    divide, pool = signed_divide if magnitude else published_divide, model.attn_pool
    count, heads, width = len(tokens), pool.num_heads, pool.head_dim
    k, v = pool.kv(tokens).view(count, 2, heads, width).permute(1, 2, 0, 3)
    q = pool.q(pool.latent[0]).view(1, heads, width).transpose(0, 1)
    attention = (q @ k.transpose(1, 2) / width**0.5).softmax(-1)
    joined = torch.cat(list(attention @ v), dim=-1)
    middle = pool.proj(joined)
    normed = pool.norm(middle)
    hidden = F.gelu(pool.mlp.fc1(normed))
    output = pool.mlp.fc2(hidden)
    one_hot = torch.zeros(1, model.num_classes, dtype=torch.float64)
    one_hot[0, target] = 1
    r = linear(one_hot, middle + output, model.head.weight, divide)
    r, branch = add(r, middle, output, magnitude)
    branch = linear(branch, hidden, pool.mlp.fc2.weight, divide)
    r = copied(r + linear(branch, normed, pool.mlp.fc1.weight, divide), middle, magnitude)
    parts = linear(r, joined, pool.proj.weight, divide).chunk(heads, dim=-1)
    found, keys, values = [], [], []
    for head, part in enumerate(parts):
        attention_r, value_r = product(part, attention[head], v[head], magnitude)
        found.append(attention_r)
        keys.append(product(attention_r, q[head], k[head].T, magnitude)[1].T)
        values.append(value_r)
    below = torch.cat([*keys, *values], dim=-1)
    return torch.stack(found), linear(below, tokens, pool.kv.weight, divide)
