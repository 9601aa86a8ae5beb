"""The data options of every command. Imports no torch."""

from dataclasses import asdict, dataclass

AUGMENTATIONS = ("none", "flip", "crop", "rand")  # see data.transforms.training_transform
DATA_SEED_LIMIT = 1_000_000  # from here on, data seeds belong to the pretraining of the bundled backbone


@dataclass(frozen=True)
class DataOptions:
    """A data set, and the part of it that is used.

    spec: `scenes`, `sports`, or the path of a folder with train/ and val/ (or valid/).
    data_seed: seed of which images are drawn, sampled or held out; 0 to DATA_SEED_LIMIT - 1.
    classes: class names of a folder to keep; None keeps all.
    train_images: number of images in the training split; None: 1500 scenes, or all images of a folder.
    val_images: number of images in each other split; None: 300 scenes, or all images of a folder.
    context_bias: probability that a scene of train and val has its class's usual surface; None: 0.9.
    """

    spec: str = "scenes"
    data_seed: int = 0
    classes: tuple[str, ...] | None = None
    train_images: int | None = None
    val_images: int | None = None
    context_bias: float | None = None

    def record(self) -> dict:
        """Return the options as written to a run's config.json."""
        return asdict(self) | {"classes": None if self.classes is None else list(self.classes)}

    @classmethod
    def of_record(cls, record: dict) -> "DataOptions":
        """Return the options of a dictionary made by `record`; other entries are ignored."""
        values = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        if values.get("classes") is not None:
            values["classes"] = tuple(values["classes"])
        return cls(**values)
