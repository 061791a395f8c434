"""Oracle: counts by hand. What `coverage` says of a converted model."""

import keras
import pytest
from keras import layers

import lra
import lra.keras
from lra.errors import ConversionError


def net():
    x = keras.Input((6,))
    h = layers.Dense(8, "tanh", name="one")(x)
    h = layers.Dropout(0.5)(layers.BatchNormalization(name="normal")(h))
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(7, name="two"), layers.ReLU(name="relu")], name="inner"
    )
    h = layers.Add()([inner(h), inner(h)])
    return keras.Model(x, layers.Activation("softmax")(layers.Dense(3, name="three")(h)))


def test_it_counts_weights_and_activations():
    found = lra.keras.coverage(lra.keras.convert(net(), lra.LRAE()))
    dense = 6 * 8 + 8 + 8 * 7 + 7 + 7 * 3 + 3
    assert found.weights == {"Dense": dense, "BatchNormalization": 4 * 8}
    assert found.left == {}
    assert found.activations == {"Dense": 1, "ReLU": 1}
    assert found.passes == {"Dropout": 1, "Add": 1, "Activation": 1}
    assert found.escaped == ()
    assert found.share == 1.0
    assert found.full
    assert "100.0% of the weights follow the rule" in str(found)


@pytest.mark.parametrize(
    ("skip", "left", "escaped"),
    [
        ("inner", {"Dense": 63}, ("inner/relu",)),
        ("one", {"Dense": 56}, ("one",)),
        ("*relu", {}, ("inner/relu",)),
        (layers.Dense, None, None),
        ((layers.ReLU, "three"), {"Dense": 24}, ("inner/relu",)),
    ],
)
def test_what_is_skipped_is_left(skip, left, escaped):
    if left is None:
        with pytest.raises(ConversionError, match="no layer to convert"):
            lra.keras.convert(net(), lra.LRAE(), skip=skip)
        return
    found = lra.keras.coverage(lra.keras.convert(net(), lra.LRAE(), skip=skip))
    assert (found.left, found.escaped) == (left, escaped)
    assert not found.full
    total = 143 + 32
    assert found.share == pytest.approx((total - sum(left.values())) / total)
    assert escaped[0] in str(found)


def test_unknown_selectors_are_refused():
    for wrong, said in (
        ("twoo", "unknown layer in skip 'twoo'"),
        ("block*", "unknown layer in skip"),
        (layers.LSTM, "unknown class in skip 'LSTM'"),
        (3, r"skip takes names, patterns and classes, got 3"),
    ):
        with pytest.raises(lra.errors.OptionError, match=said):
            lra.keras.convert(net(), lra.LRAE(), skip=(wrong,))


def test_skipped_operations_and_recurrent_layers_escape():
    x = keras.Input((4, 6))
    h = layers.LSTM(5, name="memory")(x)
    h = keras.ops.maximum(h, 0.1 * h)
    model = keras.Model(x, layers.Dense(3)(layers.Dense(7, "tanh")(h)))
    with pytest.raises(ConversionError) as caught:
        lra.keras.convert(model, lra.LRAE())
    assert [each.type for each in caught.value.refused] == ["LSTM", "Maximum"]
    skip = [each.name for each in caught.value.refused]
    found = lra.keras.coverage(lra.keras.convert(model, lra.LRAE(), skip=skip))
    assert found.left == {"LSTM": 4 * 5 * (6 + 5 + 1)}
    assert found.escaped == tuple(skip)
    assert found.passes == {"Multiply": 1}


def test_the_model_is_looked_at_as_it_is_now():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(3)])
    local = lra.keras.convert(model, lra.LRAE())
    assert lra.keras.coverage(local).full
    local.add(layers.Dense(5, "relu", name="new"))
    local.add(layers.Dense(2, name="last"))
    found = lra.keras.coverage(local)
    assert found.left == {"Dense": 3 * 5 + 5 + 5 * 2 + 2}
    assert found.escaped == ("new",)


def test_subclassed_models_are_not_verified():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = lra.keras.layers.LocalDense(5, "tanh", rule=lra.LRAE(), sees_input=True)
            self.two = layers.Dense(2)

        def call(self, x):
            return self.two(self.one(x))

    model = Net()
    model(keras.ops.ones((2, 4)))
    found = lra.keras.coverage(model)
    assert (found.weights, found.left) == ({"Dense": 25}, {"Dense": 12})
    assert not found.verified
    assert not found.full
    assert "not verified" in str(found)
    with pytest.raises(ConversionError, match="coverage: no layer of this Sequential"):
        lra.keras.coverage(keras.Sequential([layers.Dense(2)]))
