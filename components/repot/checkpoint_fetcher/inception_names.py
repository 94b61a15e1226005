"""Names of Inception-v3's variables in the two releases of 2016, and in Keras.

The i-th convolution in the order in which a release builds its network, auxiliary head left out, is
the i-th Conv2D and the i-th BatchNormalization of keras.applications.InceptionV3. Kernels have the
same layout (height, width, in, out) in all three. None of them scales in its BatchNorm (no gamma).

    convolution 7  2016-03-01  mixed_35x35x256a/branch5x5/Conv_1/weights
                   2016_08_28  InceptionV3/Mixed_5b/Branch_1/Conv2d_0b_5x5/weights
                   Keras       conv2d_7/kernel
    its BatchNorm  2016-03-01  mixed_35x35x256a/branch5x5/Conv_1/BatchNorm/beta
                   2016_08_28  InceptionV3/Mixed_5b/Branch_1/Conv2d_0b_5x5/BatchNorm/beta
                   Keras       batch_normalization_7/beta

The convolutions of the auxiliary head get the names of `repot.auxiliary_head`.

Source: tensorflow/models, research/inception/inception/slim/inception_model.py and
research/slim/nets/inception_v3.py.
"""

EMA_SUFFIX = "/ExponentialMovingAverage"

# For each branch of a block: its 2016-03-01 scope, and the 2016_08_28 names of its convolutions.
_Branches = tuple[tuple[str, str], ...]

_SMALL: _Branches = (
    ("branch1x1", "0a_1x1"),
    ("branch5x5", "0a_1x1 0b_5x5"),
    ("branch3x3dbl", "0a_1x1 0b_3x3 0c_3x3"),
    ("branch_pool", "0b_1x1"),
)
_FACTORED: _Branches = (
    ("branch1x1", "0a_1x1"),
    ("branch7x7", "0a_1x1 0b_1x7 0c_7x1"),
    ("branch7x7dbl", "0a_1x1 0b_7x1 0c_1x7 0d_7x1 0e_1x7"),
    ("branch_pool", "0b_1x1"),
)
_WIDE: _Branches = (
    ("branch1x1", "0a_1x1"),
    ("branch3x3", "0a_1x1 0b_1x3 0b_3x1"),
    ("branch3x3dbl", "0a_1x1 0b_3x3 0c_1x3 0d_3x1"),
    ("branch_pool", "0b_1x1"),
)
_STEM = (
    ("conv0", "Conv2d_1a_3x3"),
    ("conv1", "Conv2d_2a_3x3"),
    ("conv2", "Conv2d_2b_3x3"),
    ("conv3", "Conv2d_3b_1x1"),
    ("conv4", "Conv2d_4a_3x3"),
)
_BLOCKS: tuple[tuple[str, str, _Branches], ...] = (
    ("mixed_35x35x256a", "Mixed_5b", _SMALL),
    ("mixed_35x35x288a", "Mixed_5c", _SMALL),
    ("mixed_35x35x288b", "Mixed_5d", _SMALL),
    (
        "mixed_17x17x768a",
        "Mixed_6a",
        (("branch3x3", "1a_1x1"), ("branch3x3dbl", "0a_1x1 0b_3x3 1a_1x1")),
    ),
    ("mixed_17x17x768b", "Mixed_6b", _FACTORED),
    ("mixed_17x17x768c", "Mixed_6c", _FACTORED),
    ("mixed_17x17x768d", "Mixed_6d", _FACTORED),
    ("mixed_17x17x768e", "Mixed_6e", _FACTORED),
    (
        "mixed_17x17x1280a",
        "Mixed_7a",
        (("branch3x3", "0a_1x1 1a_3x3"), ("branch7x7x3", "0a_1x1 0b_1x7 0c_7x1 1a_3x3")),
    ),
    ("mixed_8x8x2048a", "Mixed_7b", _WIDE),
    ("mixed_8x8x2048b", "Mixed_7c", _WIDE),
)
# Scopes of the auxiliary head in both releases, by layer name of `repot.auxiliary_head`.
_AUXILIARY = {
    "auxiliary_proj": ("aux_logits/proj", "InceptionV3/AuxLogits/Conv2d_1b_1x1"),
    "auxiliary_conv": ("aux_logits/Conv", "InceptionV3/AuxLogits/Conv2d_2a_5x5"),
}
# Names in the files of 2016_08_28 that do not follow the pattern.
_IRREGULAR = {
    "Mixed_5c/Branch_1/Conv2d_0a_1x1": "Mixed_5c/Branch_1/Conv2d_0b_1x1",
    "Mixed_5c/Branch_1/Conv2d_0b_5x5": "Mixed_5c/Branch_1/Conv_1_0c_5x5",
    "Mixed_7c/Branch_1/Conv2d_0b_3x1": "Mixed_7c/Branch_1/Conv2d_0c_3x1",
}


def keras_names(scopes: list[str]) -> dict[str, str]:
    """Return the stable Keras name by plain variable name, without EMA_SUFFIX.

    Args:
        scopes: `scopes_2016_03_01()` or `scopes_2016_08_28()`.
    """
    names: dict[str, str] = {}
    for rank, scope in enumerate(scopes):
        number = f"_{rank}" if rank else ""
        names |= _layer_names(scope, f"conv2d{number}", f"batch_normalization{number}")
    return names


def auxiliary_names(scopes: list[str]) -> dict[str, str]:
    """Return the same as `keras_names` for the convolutions of the release's auxiliary head."""
    release = 0 if scopes == scopes_2016_03_01() else 1
    names: dict[str, str] = {}
    for layer, auxiliary_scopes in _AUXILIARY.items():
        names |= _layer_names(auxiliary_scopes[release], layer, f"{layer}_norm")
    return names


def _layer_names(scope: str, convolution: str, norm: str) -> dict[str, str]:
    """Return the Keras name by variable name, for one convolution and its BatchNorm."""
    variables = ("beta", "moving_mean", "moving_variance")
    norms = {f"{scope}/BatchNorm/{variable}": f"{norm}/{variable}" for variable in variables}
    return {f"{scope}/weights": f"{convolution}/kernel", **norms}


def scopes_2016_03_01() -> list[str]:
    """Return the scopes of the 94 convolutions of research/inception, in creation order."""
    scopes = [scope for scope, _ in _STEM]
    for block, _, branches in _BLOCKS:
        for branch, convolutions in branches:
            numbers = range(len(convolutions.split()))
            scopes += [f"{block}/{branch}/Conv" + (f"_{n}" if n else "") for n in numbers]
    return scopes


def scopes_2016_08_28() -> list[str]:
    """Return the scopes of the 94 convolutions of TF-slim, in the same order."""
    scopes = [scope for _, scope in _STEM]
    for _, block, branches in _BLOCKS:
        for index, (_, convolutions) in enumerate(branches):
            scopes += [f"{block}/Branch_{index}/Conv2d_{name}" for name in convolutions.split()]
    return [f"InceptionV3/{_IRREGULAR.get(scope, scope)}" for scope in scopes]
