"""Relevance methods that aggregate attention over blocks: Chefer's, rollout, and GradCAM of the last attention.

Each method is a function (network, images (B, 3, H, W), targets (B, K), *, options) -> maps (B, K, grid_h, grid_w), or
a tuple of maps and what `layers=True` and `gap=True` add.

Shapes: B images, K targets, L layers, h heads, N tokens, M rows (in the last block the tokens that pooling reads, else
N), T tokens that the heads read. Attention pooling counts as one layer after the blocks.

Options that several methods share:
  start_block: the first block that is aggregated, counted from 0.
  contrast, centre_head: what is explained in place of the logit, see contrasts.class_weights.
  layers: also return (B, K, L, h, grid_h, grid_w), layers from `start_block` up: what each head of each block adds to
      the map. Over layers and heads it sums to the map (under average pooling, to the map less the share that each
      averaged token starts with).
"""

import torch
from torch import Tensor

from explain.contrasts import class_weights, head_rows
from explain.gradients import attention_gradients
from explain.lrp import MAGNITUDE, PUBLISHED, RuleSet, attention_relevances
from explain.trace import BlockRecord, Network, Record


class TokenRow:
    """The row of the product of all blocks' contributions that belongs to what pooling reads, (B, K, N).

    Multiplying one row from the last block to the first costs O(L N^2), the whole product O(L N^3).
    """

    def __init__(self, record: Record, targets: int, layers: bool = False):
        """Start with 1 on the class token, or with equal shares on the tokens that pooling averages.

        Under attention pooling, start with 1 on the pool's query; the pool is then the first layer to be multiplied.

        record: the forward pass.
        targets: K, or 1 where all targets have the same row.
        layers: whether to keep what each head of each layer adds.
        """
        self.record = record
        self.added: list[Tensor] | None = [] if layers else None
        tokens = record.tokens if record.pool is None else 1
        self.row = record.logits.new_zeros(len(record.logits), targets, tokens)
        read = record.pooled if record.averaged else slice(0, record.fc_norm.output.shape[-2])
        self.row[..., read] = 1
        self.row.div_(self.row.sum(-1, keepdim=True))

    def descend(self, block: BlockRecord, contributions: Tensor, share: float = 1.0) -> None:
        """Multiply by a layer: row <- share (row + row C), or row <- row C for attention pooling.

        Attention pooling has no residual connection.

        block: the layer.
        contributions: (B, h, K, M, N), whose mean over heads is C.
        share: the factor.
        """
        rows = self.row[:, None, :, None, : contributions.shape[-2]].expand(-1, contributions.shape[1], -1, -1, -1)
        by_head = (rows @ contributions).squeeze(-2)  # (B, h, K, N)
        mean = by_head.mean(1)
        if block.is_pool:
            self.row = self.record.place(mean.unsqueeze(-1)).squeeze(-1)
        else:
            self.row = self.row + mean if share == 1 else (self.row + mean) * share
        if self.added is not None:
            self._add_layer(block, by_head, share)

    def _add_layer(self, block: BlockRecord, by_head: Tensor, share: float) -> None:
        assert self.added is not None
        if not block.is_pool and share != 1:
            self.added, by_head = [one * share for one in self.added], by_head * share
        self.added.append(self._grid(by_head.transpose(1, 2)) / by_head.shape[1])

    def _grid(self, row: Tensor) -> Tensor:
        patches = self.record.grid[0] * self.record.grid[1]
        return row[..., row.shape[-1] - patches :].unflatten(-1, self.record.grid)

    def result(self, targets: int, *more: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs of a method: maps (B, K, grid_h, grid_w), without prefix tokens, then layers and `more`.

        targets: K.
        more: further outputs; None is left out.
        """
        # A row without K is the same for every target; each target gets its own memory.
        maps = self._grid(self.row).expand(-1, targets, -1, -1).clone()
        layers = None
        if self.added is not None:
            layers = torch.stack(self.added[::-1], dim=2).expand(-1, targets, *[-1] * 4).clone()
        found = [maps, *(one for one in (layers, *more) if one is not None)]
        return maps if len(found) == 1 else tuple(found)


# ---- methods


def _lrp(
    network: Network,
    images: Tensor,
    targets: Tensor,
    rule_set: RuleSet,
    start_block: int,
    contrast: str,
    centre_head: bool,
    layers: bool,
    gap: bool,
) -> Tensor | tuple[Tensor, ...]:
    """Compute a row of (I + C_last) ... (I + C_start), C = mean_h((G * R)^+), G gradient, R relevance of attention."""
    check_start_block(network, start_block)
    record = network.record(images)
    row = TokenRow(record, targets.shape[1], layers)
    explained = class_weights(record.logits, targets, contrast, centre_head)
    single = class_weights(record.logits, targets, "none", centre_head)
    gradients = attention_gradients(network, record, head_rows(network, explained), start_block)
    relevances = attention_relevances(network, record, head_rows(network, single), rule_set, start_block, gap)
    for block, gradient, relevance in zip(record.from_last(start_block), gradients, relevances):
        row.descend(block, (gradient * relevance).clamp_(min=0))
    return row.result(targets.shape[1], 1 - next(relevances).sum((-2, -1)) if gap else None)


def lrp(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    start_block: int = 0,
    contrast: str = "none",
    centre_head: bool = False,
    layers: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Compute transformer attribution as published, which is ill-conditioned; for comparison with the literature.

    start_block: the first block that is aggregated: 0 in the authors' notebooks, 1 in their scripts.
    contrast: enters through the gradient G. The relevance R still starts with 1 at the target's logit: it says where
        the target's evidence goes, with sum 1. The residual rule rescales by that sum, which a contrast would make 0;
        and where G and R were both negative, their product would count evidence for other classes as evidence for the
        target.
    gap: also return (B, K), 1 less the relevance that arrives at the input of `start_block`. It is absorbed by outputs
        without a positive contribution, by sums z that are nothing but rounding, by the 1e-9 in every division and copy
        and, in attention pooling, by the query (a constant).

    Source: Chefer, Gur, Wolf, CVPR 2021.
    """
    return _lrp(network, images, targets, PUBLISHED, start_block, contrast, centre_head, layers, gap)


def lrp_magnitude(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    start_block: int = 0,
    contrast: str = "none",
    centre_head: bool = False,
    layers: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Compute transformer attribution with sums and products split by magnitudes, which have no poles.

    start_block, contrast: as for `lrp`.
    gap: also return (B, K), 1 less the relevance that arrives at the input of `start_block`. It is absorbed by outputs
        without a positive contribution, by the constant query of attention pooling, and by sums and products of which
        every term is 0 or far below 1e-9.

    Source: after Chefer, Gur, Wolf, CVPR 2021.
    """
    return _lrp(network, images, targets, MAGNITUDE, start_block, contrast, centre_head, layers, gap)


def gradient_attention(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    start_block: int = 0,
    contrast: str = "none",
    centre_head: bool = False,
    layers: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Aggregate gradient times attention over blocks: R <- R + mean_h((G * A)^+) R.

    Source: Chefer, Gur, Wolf, ICCV 2021.
    """
    check_start_block(network, start_block)
    record = network.record(images)
    row = TokenRow(record, targets.shape[1], layers)
    rows = head_rows(network, class_weights(record.logits, targets, contrast, centre_head))
    for block, gradient in zip(record.from_last(start_block), attention_gradients(network, record, rows, start_block)):
        row.descend(block, (gradient * block.attention).clamp_(min=0))
    return row.result(targets.shape[1])


def gradcam(
    network: Network, images: Tensor, targets: Tensor, *, contrast: str = "none", centre_head: bool = False
) -> Tensor:
    """Compute GradCAM of the last attention, in the rows that pooling reads: (sum_h w_h A_h)^+.

    w_h is the mean of dy/dA_h over these rows and the patches, as GradCAM's weight of a channel is the mean over
    places. The last attention is the pool's where pooling is by attention. A map is 0 everywhere where no head has a
    positive weight, as attention is positive.

    Source: Selvaraju et al., ICCV 2017; on attention, as a baseline, Chefer et al., CVPR 2021, whose mean over heads
    and min-max normalisation do not change the order of patches and are left out.
    """
    record = network.record(images)
    rows = head_rows(network, class_weights(record.logits, targets, contrast, centre_head))
    last = record.blocks[-1] if record.pool is None else record.pool
    read = slice(None) if record.pool is not None else record.pooled
    gradient = next(attention_gradients(network, record, rows, len(record.blocks) - 1))
    patches = slice(-record.grid[0] * record.grid[1], None)
    weights = gradient[..., read, patches].mean((-2, -1))  # (B, h, K)
    attention = last.attention[..., read, patches].squeeze(2).mean(-2)  # (B, h, N)
    maps = (weights.mT @ attention).clamp_(min=0)
    return maps.unflatten(-1, record.grid)


def rollout(
    network: Network, images: Tensor, targets: Tensor, *, start_block: int = 0, layers: bool = False
) -> Tensor | tuple[Tensor, ...]:
    """Multiply (A + I) / 2 over blocks, A the mean attention over heads; the same for every target.

    Source: Abnar and Zuidema, ACL 2020.
    """
    check_start_block(network, start_block)
    record = network.record(images)
    row = TokenRow(record, 1, layers)
    for block in record.from_last(start_block):
        row.descend(block, block.attention, share=0.5)
    return row.result(targets.shape[1])


def attention(
    network: Network, images: Tensor, targets: Tensor, *, layers: bool = False
) -> Tensor | tuple[Tensor, ...]:
    """Return the last attention of what pooling reads, its mean over heads; the same for every target.

    It is the class token's row in the last block, or the pool's query where pooling is by attention.

    layers: of that one layer, L = 1.

    Source: Dosovitskiy et al., ICLR 2021 (attention maps).
    """
    record = network.record(images)
    row = TokenRow(record, 1, layers)
    last = next(record.from_last())
    start = row.row
    row.descend(last, last.attention)
    if not last.is_pool:
        row.row = row.row - start
    return row.result(targets.shape[1])


def check_start_block(network: Network, start_block: int) -> None:
    """Raise ValueError unless the model has this block."""
    depth = len(network.model.blocks)
    if not 0 <= start_block < depth:
        raise ValueError(f"start_block is {start_block}; the model's blocks count from 0 to {depth - 1}.")
