"""`LraClassifier`: scikit-learn's contract, the training of `lra.lab.train`, and no traces.

Oracles: scikit-learn's own checks, the weights that `lra.lab.train` saves, and NumPy.
"""

import functools
import importlib
import itertools
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.base import clone
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from workbench import ENVIRONMENT

import lra
from lra.errors import Diverged, OptionError
from lra.lab import LraClassifier
from lra.lab.data import Dataset
from lra.lab.runs import files
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop

FEATURES, CLASSES = 6, 3


def blobs(n=90, seed=0):
    """Draw three overlapping clusters: float32 samples (n, 6) and class indices (n,)."""
    draw = np.random.default_rng(seed)
    y = np.arange(n) % CLASSES
    centres = np.random.default_rng(7).normal(size=(CLASSES, FEATURES)) * 2
    return (centres[y] + draw.normal(size=(n, FEATURES))).astype(np.float32), y


X, Y = blobs()


def small(**changes):
    """Return a classifier that learns the clusters in a fraction of a second."""
    settings = {"model": "mlp:hidden=9-5", "epochs": 8, "batch_size": 10, "lr": 0.02}
    return LraClassifier(**(settings | {"device": "cpu", "random_state": 3} | changes))


def same_weights(one, other):
    a, b = one.network_.state_dict(), other.network_.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


class Net(nn.Module):
    """A user's network, with dropout, so that training draws random numbers."""

    def __init__(self, shape, classes, width=8):
        super().__init__()
        layers = nn.Linear(*shape, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, classes)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


# scikit-learn's contract

ROUNDING = dict.fromkeys(
    ("check_methods_subset_invariance", "check_methods_sample_order_invariance"),
    "float32 rounds differently when samples stand in batches of other sizes or places",
)
"""Checks with a tolerance of 1e-7 or 1e-9, which float32 may miss; float64 passes them."""


@parametrize_with_checks(
    [
        small(model="mlp:hidden=16", epochs=20),
        small(model="mlp:hidden=16", epochs=20, settings={"precision": "64"}),
    ],
    expected_failed_checks=lambda classifier: {} if classifier.settings else ROUNDING,
)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    if check.func.__name__ == "check_array_api_input":
        pytest.skip("no support for arrays other than NumPy's is declared")
    check(estimator)


@pytest.mark.parametrize(
    "labels",
    [["a", "ö", "long name"], [7, -2, 10**12], [True, False, True], [0.0, 2.0, 1.0]],
    ids=["strings", "integers", "booleans", "floats"],
)
def test_predicts_labels_as_they_were_given(labels):
    y = np.array(labels)[Y]
    classifier = small().fit(X, y)
    assert classifier.classes_.tolist() == sorted(set(labels))
    predicted = classifier.predict(X)
    assert predicted.dtype == y.dtype
    assert np.mean(predicted == y) > 0.9
    assert classifier.score(X, y) == np.mean(predicted == y)


def test_probabilities_are_those_of_a_loop_in_numpy():
    classifier = small().fit(X, Y)
    h = X.astype(np.float64)
    layers = [m for m in classifier.network_ if isinstance(m, nn.Linear)]
    for i, layer in enumerate(layers):
        h = h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        if i < len(layers) - 1:
            h = np.tanh(h)
    expected = np.exp(h) / np.exp(h).sum(1, keepdims=True)
    np.testing.assert_allclose(classifier.predict_proba(X), expected, rtol=1e-4, atol=1e-6)


def test_columns_of_a_table_are_remembered():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(X, columns=list("abcdef"))
    classifier = small(epochs=1).fit(table, Y)
    assert classifier.feature_names_in_.tolist() == list("abcdef")
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(table.rename(columns={"a": "z"}))


def test_is_not_fitted_before_fit_and_ignores_later_settings():
    classifier = small()
    with pytest.raises(NotFittedError):
        classifier.predict(X)
    before = classifier.fit(X, Y).predict_proba(X)
    classifier.set_params(model="mlp:hidden=2", sample_shape=(9, 9))
    assert np.array_equal(classifier.predict_proba(X), before)
    assert not hasattr(clone(classifier), "network_")


def test_a_failed_fit_leaves_the_last_one():
    classifier = small().fit(X, Y)
    before = classifier.predict_proba(X)
    with pytest.raises(OptionError, match="lr"):
        classifier.set_params(lr=-1.0).fit(X, np.array(list("pqr"))[Y])
    assert np.array_equal(classifier.predict_proba(X), before)
    assert classifier.predict(X).dtype == Y.dtype


@pytest.mark.parametrize("backend", ["sequential", "threading"])
def test_works_in_pipelines_searches_and_cross_validation(backend):
    pipeline = make_pipeline(StandardScaler(), small(epochs=2))
    grid = {"lraclassifier__model": ["mlp:hidden=4", "mlp:hidden=9"]}
    with joblib.parallel_backend(backend, n_jobs=2):
        search = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
        scores = cross_val_score(pipeline, X, Y, cv=2)
    expected = []
    for train, test in ((slice(45, 90), slice(0, 45)), (slice(0, 45), slice(45, 90))):
        expected.append(clone(pipeline).fit(X[train], Y[train]).score(X[test], Y[test]))
    np.testing.assert_array_equal(scores, expected)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"]) > 0.5


def test_sample_weights_are_refused():
    with pytest.raises(TypeError, match="sample_weight"):
        small().fit(X, Y, sample_weight=np.ones(len(Y)))
    with pytest.raises(ValueError, match="support sample_weight"):
        AdaBoostClassifier(small()).fit(X, Y)


def test_one_class_is_refused():
    with pytest.raises(OptionError, match=r"at least 2 classes; y has only \['a'\]"):
        small().fit(X, ["a"] * len(X))


# the training of lra.lab.train


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        ("backprop", "residual-mlp:width=7,depth=3"),
        ("lra-e:beta=0.2", "mlp:hidden=9-5"),
        ("mirrored-lra", "residual-mlp:width=7,depth=3"),
        ("dtp", "mlp:width=7,depth=3"),
    ],
)
def test_trains_as_the_command_does(tmp_path, rule, model):
    settings = {"epochs": 3, "batch_size": 16, "lr": 0.01, "optimizer": "rmsprop", "device": "cpu"}
    settings |= {"schedule": "cosine", "weight_decay": 0.1, "rule": rule, "model": model}
    config = TrainConfig("blobs", **settings, smoothing=0.9, validation=20, patience=2, seed=5)
    dataset = Dataset("blobs", X, Y, None, None, ("0", "1", "2"))
    loop.train(config, tmp_path / "run", dataset=dataset)
    others = {"smoothing": 0.9}
    classifier = LraClassifier(
        **settings, settings=others, validation=20, patience=2, random_state=5
    ).fit(X, Y)
    saved = safetensors.torch.load_file(tmp_path / "run" / files.WEIGHTS)
    fitted = classifier.network_.state_dict()
    assert list(saved) == sorted(fitted)
    assert all(torch.equal(fitted[name], saved[name]) for name in saved)
    rows = np.genfromtxt(tmp_path / "run" / files.METRICS, delimiter=",", names=True)
    assert classifier.n_iter_ == len(rows)
    np.testing.assert_allclose(classifier.loss_curve_, rows["loss"], rtol=1e-12)
    accuracy = rows["validation_accuracy"] / 100
    np.testing.assert_allclose(classifier.validation_scores_, accuracy, rtol=1e-12)
    assert classifier.best_validation_score_ == pytest.approx(accuracy.max(), rel=1e-12)


def test_random_state_decides_all_draws():
    def fit(seed):
        return small(model=Net, epochs=2, random_state=seed).fit(X, Y)

    assert same_weights(fit(1), fit(1))
    assert not same_weights(fit(1), fit(2))
    assert same_weights(fit(np.int64(1)), fit(1))
    one, other = (np.random.RandomState(4) for _ in range(2))
    first = fit(one)
    assert same_weights(first, fit(other))
    assert not same_weights(first, fit(one))  # its state has moved on
    np.random.seed(0)
    assert not same_weights(fit(None), fit(None))


@pytest.mark.parametrize("size", [91, 1000, np.int64(2000)])
def test_a_batch_holds_at_most_all_samples(size):
    assert same_weights(small(batch_size=size).fit(X, Y), small(batch_size=90).fit(X, Y))
    held_out = small(batch_size=size, validation=10).fit(X, Y)
    assert same_weights(held_out, small(batch_size=80, validation=10).fit(X, Y))


def test_validation_is_a_number_or_a_share():
    share = small(validation=np.float64(0.2)).fit(X, Y)
    assert same_weights(share, small(validation=18).fit(X, Y))
    assert len(share.validation_scores_) == share.n_iter_
    without = small(validation=0.0).fit(X, Y)
    assert without.validation_scores_ is None
    assert without.best_validation_score_ is None


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), [28, 28, 1]])
def test_images_have_the_given_shape(shape):
    draw = np.random.default_rng(0)
    y = np.arange(24) % 2
    images = draw.uniform(size=(24, 28, 28)) * 0.1
    images[y == 1, :14] += 0.9
    classifier = small(model="lenet", sample_shape=shape, epochs=8, batch_size=4)
    assert classifier.fit(images.reshape(24, -1), y).score(images.reshape(24, -1), y) == 1.0
    assert classifier.n_features_in_ == 784


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_shape": (2, 2)}, r"product 6.*got \(2, 2\)"),
        ({"sample_shape": 6}, "tuple of sizes"),
        ({"settings": {"seed": 1}}, "unknown setting 'seed'"),
        ({"settings": {"momentun": 1}}, "Did you mean 'momentum'"),
        ({"settings": ["momentum"]}, "settings must be a dict"),
        ({"settings": {"momentum": 2}, "optimizer": "sgd"}, "momentum must be"),
        ({"validation": 1.0}, "share below 1"),
        ({"validation": -1}, "validation must be"),
        ({"batch_size": "all"}, "batch_size must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"random_state": -1}, "seed must be"),
        ({"rule": "lra-f"}, "Did you mean 'lra-e'"),
        ({"model": Net((FEATURES,), CLASSES)}, "must be a function or class"),
        ({"model": lambda shape, classes: nn.Linear(6, 5)}, r"logits of shape \(2, 3\)"),
        ({"model": "gpt"}, "gpt reads text"),
    ],
)
def test_wrong_settings_are_errors_at_fit(changes, message):
    classifier = small(**changes)
    with pytest.raises(OptionError, match=message):
        classifier.fit(X, Y)


def test_divergence_is_an_error_with_advice():
    with pytest.raises(Diverged, match="Try a smaller lr, scaled features"):
        small(lr=1e38, optimizer="sgd").fit(X, Y)


# a user's own rules and networks

CODE = """
import lra
from torch import nn

def centred(beta: float = 0.1):
    return lra.LRAE(beta=beta)

class Net(nn.Module):
    def __init__(self, shape, classes, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(*shape, width), nn.Tanh(), nn.Linear(width, classes))

    def forward(self, x):
        return self.layers(x)
"""


def centred():
    return lra.LRAE(beta=0.3)


def assert_same_after_pickling(classifier):
    for copy in (
        pickle.loads(pickle.dumps(classifier)),
        pickle.loads(cloudpickle.dumps(classifier)),
    ):
        assert same_weights(copy, classifier)
        assert np.array_equal(copy.predict_proba(X), classifier.predict_proba(X))
        assert same_weights(clone(copy).fit(X, Y), classifier)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": Net},
        {"model": functools.partial(Net, width=5)},
        {"rule": centred},
        {"rule": lra.MirroredLRA()},
        {"rule": "dtp", "settings": {"precision": "64"}},
        {"rule": "predictive-coding", "epochs": 1},
    ],
    ids=["class", "partial", "function", "object", "method", "inference"],
)
def test_a_fit_survives_pickling(changes):
    assert_same_after_pickling(small(**changes).fit(X, Y))


def test_code_in_a_file_survives_pickling_and_a_move(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(CODE)
    classifier = small(rule="own.py:centred:beta=0.3", model="own.py:Net:width=8").fit(X, Y)
    assert same_weights(classifier, small(rule=centred, model="mlp:hidden=8").fit(X, Y)) is False
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    copy = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(copy.predict_proba(X), classifier.predict_proba(X))
    saved = pickle.dumps(classifier)
    (tmp_path / "own.py").unlink()
    assert np.array_equal(copy.predict_proba(X), classifier.predict_proba(X))
    with pytest.raises(OptionError, match=r"own\.py: there is no such file"):
        pickle.loads(saved)


def test_a_network_without_a_name_can_be_trained():
    def local(shape, classes):
        return Net(shape, classes)

    classifiers = [small(model=model).fit(X, Y) for model in (Net, local, lambda *a: Net(*a))]
    assert all(same_weights(c, classifiers[0]) for c in classifiers)
    copy = pickle.loads(cloudpickle.dumps(classifiers[1]))  # as joblib sends it to a worker
    assert np.array_equal(copy.predict_proba(X), classifiers[0].predict_proba(X))
    with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
        pickle.dumps(classifiers[1])


SCRIPT = """
import pickle
import numpy as np
from sklearn.model_selection import GridSearchCV
from torch import nn
from lra.lab import LraClassifier

class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(*shape, classes)

    def forward(self, x):
        return self.layer(x)

X = np.random.default_rng(0).normal(size=(40, 4))
y = np.where(X[:, 0] > 0, "yes", "no")
grid = {"model": [Net, "mlp:hidden=5"], "rule": ["backprop", "lra-e"]}
serial, parallel = (
    GridSearchCV(LraClassifier(epochs=2, random_state=0), grid, cv=2, n_jobs=n, refit=False)
    .fit(X, y).cv_results_["mean_test_score"].tolist()
    for n in (1, 2)
)
assert serial == parallel, (serial, parallel)
fitted = LraClassifier(model=Net, epochs=2, random_state=0).fit(X, y)
assert (pickle.loads(pickle.dumps(fitted)).predict(X) == fitted.predict(X)).all()
print(*serial)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_searches_in_two_processes(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) == 4


def test_the_example_of_the_docs_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "guides" / "python.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(from sklearn.*?)```", page, re.DOTALL)
    exec(example, {})
    assert float(capsys.readouterr().out.split()[-1]) > 0.9


# no traces


@pytest.fixture
def _nothing_stays(tmp_path, monkeypatch, capfd):
    """Check that a test leaves no file, no output, and no changed global state."""

    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        draws = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
        threads = torch.get_num_threads(), threading.active_count()
        return handlers, draws, threads, torch.get_default_dtype(), torch.is_grad_enabled()

    def contents():
        return sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts)

    (tmp_path / "own.py").write_text(CODE)
    for name in ("TMPDIR", "LRA_CACHE", "HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # small networks train with one
    before = state(), contents()
    yield
    assert (state(), contents()) == before
    torch.set_num_threads(threads)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("_nothing_stays")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": Net, "rule": centred},
        {"model": "own.py:Net", "rule": "own.py:centred", "validation": 0.2},
        {"rule": "predictive-coding", "epochs": 1, "settings": {"precision": "64"}},
    ],
    ids=["table", "objects", "file", "method"],
)
def test_a_fit_leaves_no_trace(changes):
    pickle.loads(pickle.dumps(small(**changes).fit(X, Y))).predict(X)


def interrupting(number):
    """Return a function that builds a network that sends this process a signal in training."""
    calls = itertools.count()

    class Interrupting(Net):
        def forward(self, x):
            if self.training and next(calls) == 5:
                signal.raise_signal(number)
            return super().forward(x)

    return Interrupting


def failing(shape, classes):
    raise RuntimeError("no network")


@pytest.mark.usefixtures("_nothing_stays")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": interrupting(signal.SIGINT)}, KeyboardInterrupt),
        ({"model": failing}, OptionError),
        ({"lr": 1e38, "optimizer": "sgd"}, Diverged),
    ],
    ids=["ctrl-c", "network", "diverged"],
)
def test_an_ended_fit_leaves_no_trace(changes, error):
    with pytest.raises(error):
        small(**changes).fit(X, Y)


def test_threads_fit_the_same_networks():
    models = [Net, functools.partial(Net, width=5), "mlp:hidden=4", lambda *a: Net(*a, width=3)]
    classifiers = [small(model=model) for model in models]
    expected = [clone(c).fit(X, Y) for c in classifiers]
    workers = [threading.Thread(target=c.fit, args=(X, Y)) for c in classifiers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(same_weights(c, e) for c, e in zip(classifiers, expected, strict=True))


def test_scikit_learn_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [name for name in sys.modules if name.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "lra.lab.estimator")
    with pytest.raises(ImportError, match=r"pip install 'lra-e\[sklearn\]'"):
        importlib.import_module("lra.lab").LraClassifier  # noqa: B018
