"""Which images a command works on. Imports no torch."""

from dataclasses import asdict, dataclass

AUGMENTATIONS = ("none", "flip", "crop", "rand")  # see data.transforms.training_transform
DATA_SEED_LIMIT = 1_000_000  # data seeds from here on are those of the bundled backbone's pretraining


@dataclass(frozen=True)
class DataOptions:
    """A data set and the part of it that is used.

    spec: `scenes`, `sports`, or the path of a folder with train/ and val/ (or valid/).
    data_seed: chooses which images are drawn, sampled or held out; 0 to DATA_SEED_LIMIT - 1.
    classes: the classes to keep of a folder; None keeps all.
    train_images: images in the training split; None takes 1500 scenes, or all images of a folder.
    val_images: images in each other split; None takes 300 scenes, or all images of a folder.
    context_bias: probability that a scene of train and val has its class's usual surface; None is 0.9.
    """

    spec: str = "scenes"
    data_seed: int = 0
    classes: tuple[str, ...] | None = None
    train_images: int | None = None
    val_images: int | None = None
    context_bias: float | None = None

    def record(self) -> dict:
        """Return the options as a run's config.json holds them."""
        return asdict(self) | {"classes": None if self.classes is None else list(self.classes)}

    @classmethod
    def of_record(cls, record: dict) -> "DataOptions":
        """Return the options that `record` gave; further entries are ignored."""
        values = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        if values.get("classes") is not None:
            values["classes"] = tuple(values["classes"])
        return cls(**values)
