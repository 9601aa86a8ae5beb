"""How a model is trained: recipes of the methods, augmentation, and saved states. Imports no torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PRECISIONS = {"no": "no", "bfloat16": "bf16", "float16": "fp16"}  # our names -> accelerate's
BALANCES = ("none", "weights", "sampling")
HEAD_INITS = ("probe", "random")
SAVE_EVERY = 300.0  # seconds between saved states within an epoch
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(0, -13, -1))  # 1 to 1e-6, two per decade


@dataclass(frozen=True)
class Recipe:
    """Training by epochs: AdamW with linear warm-up over a fraction of all steps, then a cosine schedule to zero.

    epochs: passes over the training images.
    batch_size: images per optimiser step, over all processes and accumulated parts.
    learning_rate: its peak.
    weight_decay: of matrices; biases, norms and DoRA's magnitudes have none.
    warmup: fraction of all steps.
    label_smoothing: probability that is spread evenly over the classes.
    layer_decay: factor of the learning rate from each layer to the one before; 1 for one rate.
    clip: gradients are clipped to this norm; 0 for no clipping.
    accumulate: gradient accumulation steps: parts of a process's share of a batch.
    ema: decay of an exponential moving average of the weights, which is then evaluated and kept; 0 for none.
    mixup: alpha of timm's mixup; 0 for none.
    cutmix: alpha of timm's cutmix; 0 for none.
    drop_path: rate of stochastic depth in the last block.
    patience: epochs after the most accurate one on held-out images that end the training; 0 for never.
    precision: of matrix products, a name in PRECISIONS.
    balance: "weights" weighs each loss by the inverse frequency of its class, "sampling" draws images so, or "none".
    """

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    layer_decay: float = 1.0
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    patience: int = 0
    precision: str = "no"
    balance: str = "none"


@dataclass(frozen=True)
class ProbeRecipe:
    """Solving a linear probe along a path of L2 penalties.

    penalties: weights of half the squared norm of the weight matrix for standardised features, in any order; the bias
        has none.
    iterations: most iterations of L-BFGS for each penalty.
    label_smoothing: probability that is spread evenly over the classes.
    balance: "weights" weighs each loss by the inverse frequency of its class, or "none".
    """

    penalties: tuple[float, ...] = PENALTIES
    iterations: int = 200
    label_smoothing: float = 0.1
    balance: str = "none"


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented.

    augment: a name in data.options.AUGMENTATIONS.
    crop_scale: smallest area of a random crop, as a fraction of the image's.
    views: number of augmented views of each image, the same in every epoch; 0: a new one in every epoch, and a linear
        probe sees images as they are.
    """

    augment: str = "crop"
    crop_scale: float = 0.5
    views: int = 0

    @property
    def repeats(self) -> bool:
        """Whether epochs see the same images again, so that what frozen layers compute of them can be kept."""
        return bool(self.views) or self.augment == "none"

    def record(self) -> dict[str, str | float | int]:
        """Return the augmentation as a run's config.json holds it."""
        return {"augment": self.augment, "crop_scale": self.crop_scale, "augment_views": self.views}


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often the state of a training is saved.

    resume: file of the state, which an interrupted training continues from; None saves nothing.
    save_every: seconds between saves within an epoch; the end of an epoch is always saved.
    """

    resume: Path | None = None
    save_every: float = SAVE_EVERY


NOT_SAVED = Checkpointing()

RECIPES: dict[str, Recipe | ProbeRecipe] = {
    "linear": ProbeRecipe(),
    "dora": Recipe(epochs=3, learning_rate=1e-3),
    "lora": Recipe(epochs=3, learning_rate=1e-3),
    "full": Recipe(epochs=3, learning_rate=3e-4),
}
# Fields of a Recipe that the command line can change, and that a linear probe has no use for.
BY_EPOCHS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "layer_decay",
    "clip",
    "accumulate",
    "ema",
    "mixup",
    "cutmix",
    "drop_path",
    "patience",
)


def recipe_of(method: str, **changes: Any) -> Recipe | ProbeRecipe:
    """Return a method's recipe with changes.

    method: a name in RECIPES.
    changes: fields of the recipe; None keeps the method's own. Raises TypeError for a field that the recipe lacks.
    """
    return replace(RECIPES[method], **{name: value for name, value in changes.items() if value is not None})
