"""Slow, obvious relevance for one image and one target, written as the formulas are.

Independent of `explain`: its own forward pass, gradients by autograd, loops over tokens and heads.
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
    """z+ rule, x (N, in), r (N, out): loops over tokens, inputs and outputs."""
    result = torch.zeros_like(x)
    for n in range(len(x)):
        for k in range(len(weight)):
            parts = [max(float(x[n, i] * weight[k, i].detach()), 0.0) for i in range(x.shape[1])]
            over = divide(float(r[n, k]), sum(parts))
            for i, part in enumerate(parts):
                result[n, i] += part * over
    return result


def add(r, a, b, magnitude):
    if magnitude:
        over = each(signed_divide, r, a.abs() + b.abs())
        return a.abs() * over, b.abs() * over
    first, second = a * each(published_divide, r, a + b), b * each(published_divide, r, a + b)
    first_sum, second_sum, total = (float(t.sum()) for t in (first, second, r))
    absolute = abs(first_sum) + abs(second_sum)
    first_share = published_divide(abs(first_sum), absolute) * total
    second_share = published_divide(abs(second_sum), absolute) * total
    return (first * published_divide(first_share, first_sum),
            second * published_divide(second_share, second_sum))


def copied(r, x, magnitude):
    """The published code's x * (r / x) where |x| < 1e-6; elsewhere unchanged."""
    if magnitude:
        return r
    return each(lambda value, at: at * published_divide(value, at) if abs(at) < 1e-6 else value, r, x)


def product(r, left, right, magnitude):
    """z = left @ right: (R_left, R_right), each halved."""
    if magnitude:
        left, right = left.abs(), right.abs()
    share = each(signed_divide if magnitude else published_divide, r, left @ right)
    rows, inner, columns = left.shape[0], left.shape[1], right.shape[1]
    left_r, right_r = torch.zeros_like(left), torch.zeros_like(right)
    for m in range(rows):
        for p in range(inner):
            for n in range(columns):
                left_r[m, p] += left[m, p] * share[m, n] * right[p, n] / 2
                right_r[p, n] += left[m, p] * share[m, n] * right[p, n] / 2
    return left_r, right_r


def forward(model, image):
    """All tokens through all blocks, keeping what the backward passes need; A in autograd's graph."""
    x = model.patch_embed(image[None])[0]
    x = (torch.cat([model.cls_token[0], x]) + model.pos_embed[0]).detach().requires_grad_(True)
    records = []
    for block in model.blocks:
        record = dict(block=block, x=x, normed1=block.norm1(x))
        tokens, heads = len(x), block.attn.num_heads
        q, k, v = block.attn.qkv(record["normed1"]).view(tokens, 3, heads, -1).permute(1, 2, 0, 3)
        attention = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = attention @ v
        joined = torch.cat(list(mixed), dim=-1)
        attended = block.attn.proj(joined)
        middle = x + attended
        normed2 = block.norm2(middle)
        hidden = F.gelu(block.mlp.fc1(normed2))
        output = block.mlp.fc2(hidden)
        record.update(q=q, k=k, v=v, attention=attention, mixed=mixed, joined=joined, attended=attended,
                      middle=middle, normed2=normed2, hidden=hidden, output=output)
        records.append(record)
        x = middle + output
    pooled = model.norm(x)[0]
    return records, pooled, model.head(pooled)


def relevances(model, records, pooled, target, magnitude, with_rest=False):
    """Relevance of A (h, N, N) for every block, first to last; with what arrives at block 0, if asked."""
    divide = signed_divide if magnitude else published_divide
    one_hot = torch.zeros(1, model.num_classes, dtype=torch.float64)
    one_hot[0, target] = 1
    r = torch.zeros_like(records[0]["x"])
    r[0] = linear(one_hot, pooled[None], model.head.weight, divide)[0]
    found = []
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


def slow_map(model, image, target, method, start_block=0):
    """One map (grid_h, grid_w): the whole N x N product of (I + C_b), then its first row."""
    records, pooled, logits = forward(model, image)
    gradients = torch.autograd.grad(logits[target], [rec["attention"] for rec in records])
    records = [{key: value.detach() if torch.is_tensor(value) else value for key, value in rec.items()}
               for rec in records]
    if method == "gradient_attention":
        factors = [rec["attention"] for rec in records]
    else:
        factors = relevances(model, records, pooled.detach(), target, method == "lrp_magnitude")
    total = torch.eye(len(records[0]["x"]), dtype=torch.float64)
    for gradient, factor in list(zip(gradients, factors))[start_block:]:
        total = (torch.eye(len(total)) + (gradient * factor).clamp(min=0).mean(0)) @ total
    return total[0, 1:].view(model.patch_embed.grid_size)


def slow_pool(model, tokens, target, magnitude):
    """Attention pooling of tokens (N, D): relevance of its A (h, 1, N), and of the tokens (N, D)."""
    divide, pool = signed_divide if magnitude else published_divide, model.attn_pool
    count, heads, width = len(tokens), pool.num_heads, pool.head_dim
    k, v = pool.kv(tokens).view(count, 2, heads, width).permute(1, 2, 0, 3)
    q = pool.q(pool.latent[0]).view(1, heads, width).transpose(0, 1)
    attention = (q @ k.transpose(1, 2) / width ** 0.5).softmax(-1)
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
