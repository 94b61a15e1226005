import json
from pathlib import Path

from repot.auxiliary_head import ARRAY_SHAPES
from repot.checkpoint_fetcher.inception_names import (
    auxiliary_names,
    keras_names,
    scopes_2016_03_01,
    scopes_2016_08_28,
)

GOLDEN = Path(__file__).parent.parent.parent / "golden" / "checkpoint"
# The first 94 rows; the auxiliary head and the classifier follow.
ALL_ROWS = json.loads((GOLDEN / "name_map.json").read_text())
ROWS, AUXILIARY_ROWS = ALL_ROWS[:94], ALL_ROWS[94:96]


def test_scopes_of_both_releases_match_the_original_programs() -> None:
    assert scopes_2016_03_01() == [row["old"] for row in ROWS]
    assert scopes_2016_08_28() == [row["slim"] for row in ROWS]


def test_convolution_i_is_the_keras_layer_of_rank_i() -> None:
    names = keras_names(scopes_2016_03_01())

    assert len(names) == 376
    for row in ROWS:
        assert names[f"{row['old']}/weights"] == f"{row['keras_conv']}/kernel"
        assert (
            names[f"{row['old']}/BatchNorm/moving_variance"] == f"{row['keras_bn']}/moving_variance"
        )


def test_every_name_is_a_variable_in_the_published_files() -> None:
    old = set(json.loads((GOLDEN / "variables.json").read_text()))
    slim = {name for name, _ in json.loads((GOLDEN / "slim_2016_08_28_variables.json").read_text())}

    assert set(keras_names(scopes_2016_03_01())) < old
    assert set(keras_names(scopes_2016_08_28())) < slim


def test_auxiliary_convolutions_have_the_names_and_shapes_of_both_releases() -> None:
    old, slim = auxiliary_names(scopes_2016_03_01()), auxiliary_names(scopes_2016_08_28())
    shapes = json.loads((GOLDEN / "variables.json").read_text())

    assert {name: tuple(shapes[name]) for name in old} == {
        name: ARRAY_SHAPES[keras] for name, keras in old.items()
    }
    assert len(old) == 8
    for row in AUXILIARY_ROWS:
        for variable in ("weights", "BatchNorm/beta", "BatchNorm/moving_mean"):
            assert old[f"{row['old']}/{variable}"] == slim[f"{row['slim']}/{variable}"]
    assert set(slim) <= {
        name for name, _ in json.loads((GOLDEN / "slim_2016_08_28_variables.json").read_text())
    }
