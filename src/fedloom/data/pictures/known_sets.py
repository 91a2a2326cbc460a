"""Published data sets: origin, class lists and orders, dropped classes."""

from dataclasses import dataclass

from fedloom.data.pictures.class_names import class_words


@dataclass(frozen=True)
class Known:
    """A published data set. `hub`: Hugging Face id, None if `data.path` has to name a folder; `label`: its label column.

    `folders`: the folder names of the classes, in label order; empty = all, sorted. `dropped`: excluded classes.
    """

    hub: str | None = None
    label: str = "label"
    test: str = "test"
    coarse: str | None = None
    folders: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    dropped: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, if they are fixed here."""
        return tuple(class_words(f) for f in self.folders)


KNOWN: dict[str, Known] = {
    "caltech101": Known(dropped=frozenset({"BACKGROUND_Google", "Faces_easy"})),
    "oxford-pets": Known("timm/oxford-iiit-pet"),
    "flowers102": Known(),
    "food101": Known("ethz/food101", test="validation"),
    "dtd": Known("tanganke/dtd"),
    "sun397": Known("tanganke/sun397"),
    "ucf101": Known(),
    "cifar10": Known("uoft-cs/cifar10"),
    "cifar100": Known("uoft-cs/cifar100", label="fine_label", coarse="coarse_label"),
    "domainnet": Known(  # FedBN's ten classes (Li et al., 2021); the published loaders took them from an unordered set
        "wltjr1007/DomainNet",
        folders=(
            *("bird", "feather", "headphones", "ice_cream", "teapot"),
            *("tiger", "whale", "windmill", "wine_glass", "zebra"),
        ),
        domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    ),
    "office-caltech10": Known(
        folders=(
            *("back_pack", "bike", "calculator", "headphones", "keyboard"),
            *("laptop_computer", "monitor", "mouse", "mug", "projector"),
        ),
        domains=("amazon", "caltech", "dslr", "webcam"),
    ),
}
"""The data sets by name (`data.dataset`). CoOp's split files (`data.path`) give the published splits of the first seven."""
