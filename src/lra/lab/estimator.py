"""A classifier with scikit-learn's interface, for pipelines, cross-validation and searches."""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lra.axis import unknown
from lra.errors import OptionError
from lra.lab.data import Dataset
from lra.lab.networks.build import build_network
from lra.lab.runs.display import Reporter
from lra.lab.runs.measure import compute_logits
from lra.lab.runs.state import State
from lra.lab.settings.code import split_reference
from lra.lab.settings.config import TrainConfig
from lra.lab.training.learning import make_predictor
from lra.lab.training.loop import TrainingLoop
from lra.lab.training.stop import Stop
from lra.lab.training.threads import preserve_threads
from lra.methods import Method
from lra.rules import Rule

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    if not str(error.name).startswith("sklearn"):
        raise
    raise ImportError(
        "lra.lab.LraClassifier needs scikit-learn: pip install 'lra-e[sklearn]'"
    ) from error

_NAMED = (
    *("rule", "model", "epochs", "batch_size", "lr", "optimizer", "weight_decay", "schedule"),
    *("patience", "device"),
)
"""The parameters of `LraClassifier` that are fields of `TrainConfig`."""

_OTHERS = (
    *("augment", "betas", "compile", "feedback_lr", "momentum", "precision", "share_feedback"),
    *("smoothing", "warmup", "milestones"),
    *("mirror_every", "mirror_samples", "mirror_step", "mirror_decay"),
)
"""The fields of `TrainConfig` that its parameter `settings` may hold."""

_turn = threading.RLock()
given = SimpleNamespace()
"""The function or class of the fit in progress, by the name of the parameter that it was given for.

A configuration refers to code by name, and a lambda or a class that a worker process received has
none.
"""


class LraClassifier(ClassifierMixin, BaseEstimator):
    """Classify by a neural network that a learning rule trains, with scikit-learn's interface.

    Samples are rows of X (n, features), in float32 and as they are: scale them in a pipeline.
    Training is that of `lra.lab.train` without files: with equal settings, weights are equal to the
    bit. Fits in several threads take turns, since they share torch's random state.

    Args:
        rule: the rule or method: "lra-e:beta=0.2", an object, or a function that returns one.
        model: the network: "mlp:width=64,depth=3", "my_nets.py:Net", or a function or class that is
            called with the shape of a sample and the number of classes.
        sample_shape: the shape of a sample, such as (28, 28) for a network that reads images; by
            default (features,).
        epochs: passes over the training data; by default 10, or enough for 1,000 steps.
        batch_size: samples per step, at most all of them.
        lr: the learning rate.
        optimizer: sgd, adam, adamw or rmsprop.
        weight_decay: weight decay; by default 0.01 for adamw, and 0 for others.
        schedule: the learning rate's schedule: constant, cosine or one-cycle.
        validation: the number or share of samples held out for validation. With them, the weights
            of the best epoch are kept; without them, the last ones.
        patience: stop after this many epochs without improvement on validation samples.
        device: auto, cpu, cuda or mps; auto uses an accelerator if there is one.
        random_state: the seed, a `numpy.random.RandomState`, or None for NumPy's.
        settings: other fields of `TrainConfig`: augment, betas, compile, feedback_lr, momentum,
            precision, share_feedback, smoothing, warmup, milestones, and those of mirrors.

    Attributes:
        classes_: the labels, sorted, (classes,).
        n_features_in_: the number of features.
        feature_names_in_: their names, if X had any.
        n_iter_: the number of epochs.
        loss_curve_: the mean loss of each epoch, in nats.
        validation_scores_: the validation accuracy after each epoch, or None.
        best_validation_score_: the largest of them, or None.

    >>> from sklearn.datasets import make_moons
    >>> X, y = make_moons(200, noise=0.1, random_state=0)
    >>> classifier = lra.lab.LraClassifier("mirrored-lra", epochs=20, lr=1e-2, random_state=0)
    >>> classifier.fit(X, y).score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        rule: str | Rule | Method | Callable[..., Rule | Method] = "lra-e",
        model: str | Callable[..., nn.Module] = "mlp",
        *,
        sample_shape: tuple[int, ...] | None = None,
        epochs: int | None = None,
        batch_size: int = 50,
        lr: float = 1e-3,
        optimizer: str = "adamw",
        weight_decay: float | None = None,
        schedule: str = "constant",
        validation: float = 0,
        patience: int | None = None,
        device: str = "auto",
        random_state: Any = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.rule = rule
        self.model = model
        self.sample_shape = sample_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.validation = validation
        self.patience = patience
        self.device = device
        self.random_state = random_state
        self.settings = settings

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Train a new network.

        Args:
            X: samples, (n, features).
            y: labels, (n,): numbers, strings or booleans.

        Returns:
            The classifier itself.

        Raises:
            OptionError: a setting is unknown, invalid, or does not fit the data; or all labels are
                equal.
            ValueError: X or y is not what scikit-learn accepts: missing, infinite or ragged values.
            Diverged: the loss or a weight is no longer finite.
        """
        x, labels = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
        check_classification_targets(labels)
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise OptionError(
                f"LraClassifier needs samples of at least 2 classes; y has only {classes.tolist()}"
            )
        names = tuple(map(str, classes))
        x = self._reshape(x)
        dataset = Dataset("X", x, indices.astype(np.int64), None, None, names)
        owned = {
            name: value
            for name, value in (("rule", self.rule), ("model", self.model))
            if callable(value) and not isinstance(value, (Rule, Method))
        }
        seed = self._seed()
        with _exclusive(owned, self.device):
            config = self._configure(len(x), owned, seed)
            state = State()
            _MemoryRun(config, dataset).train(state)
        self._fitted = _Fitted(config, owned, dataset.sample_shape, len(names), state.best_weights)
        self.classes_, self.n_iter_ = classes, state.epoch
        self.loss_curve_ = [row["loss"] for row in state.rows]
        scores = [row["validation_accuracy"] for row in state.rows]
        self.validation_scores_ = None if None in scores else [s / 100 for s in scores]
        self.best_validation_score_ = self.validation_scores_ and max(self.validation_scores_)
        return self

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Compute the probability of each class.

        Args:
            X: samples, (n, features).

        Returns:
            The probabilities, (n, classes), in the order of `classes_`.
        """
        check_is_fitted(self, "_fitted")
        x = validate_data(self, X, dtype=np.float32, reset=False)
        samples = torch.from_numpy(x.reshape(len(x), *self._fitted.sample_shape))
        logits = compute_logits(self._fitted.predictor, samples.to(self._fitted.dtype))
        probabilities: npt.NDArray[np.float64] = logits.double().softmax(1).numpy()
        return probabilities

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """Predict the most probable class of each sample.

        Args:
            X: samples, (n, features).

        Returns:
            The labels, (n,).
        """
        indices = self.predict_proba(X).argmax(1)
        predicted: npt.NDArray[Any] = self.classes_[indices]
        return predicted

    @property
    def network_(self) -> nn.Module:
        """The plain network in evaluation mode, on the CPU."""
        return self._fitted.network

    def _reshape(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return samples in the shape that the network reads."""
        shape = x.shape[1:] if self.sample_shape is None else self.sample_shape
        if not isinstance(shape, (tuple, list)) or math.prod(shape) != x.shape[1]:
            raise OptionError(
                f"sample_shape must be a tuple of sizes with the product {x.shape[1]}, the number "
                f"of features of X; got {shape!r}"
            )
        return x.reshape(len(x), *shape)

    def _configure(self, samples: int, owned: Mapping[str, Any], seed: int) -> TrainConfig:
        """Return the configuration of a fit."""
        others = {} if self.settings is None else self.settings
        if not isinstance(others, Mapping):
            raise OptionError(f"settings must be a dict; got {others!r}")
        for name in others:
            if name not in _OTHERS:
                raise unknown("setting", name, _OTHERS)
        chosen = {name: getattr(self, name) for name in _NAMED}
        chosen |= {name: f"{__name__}:given.{name}" for name in owned}
        texts = (text for text in (chosen["rule"], chosen["model"]) if isinstance(text, str))
        code_files = [found[0] for found in map(split_reference, texts) if found]
        config = TrainConfig(
            "X",
            **{name: _plain(value) for name, value in {**chosen, **others}.items()},
            validation=self._count_validation(samples),
            seed=seed,
            test=False,
            sources=tuple((name, "") for name in code_files),  # no run on disk needs their hashes
            source_folder=str(Path.cwd()),
        )
        most = samples - (config.validation or 0)
        return dataclasses.replace(config, batch_size=max(1, min(config.batch_size, most)))

    def _count_validation(self, samples: int) -> Any:
        """Return the number of validation samples; `TrainConfig` checks it."""
        share = _plain(self.validation)
        if not isinstance(share, float):
            return share
        if not 0 <= share < 1:
            raise OptionError(f"validation must be a number, or a share below 1; got {share}")
        return round(share * samples)

    def _seed(self) -> int:
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _plain(value: Any) -> Any:
    """Return a NumPy number, as searches draw them, as a number of Python."""
    return value.item() if isinstance(value, np.generic) else value


class _Fitted:
    """A trained network, which is pickled as what builds it and its weights.

    The module itself may be of a class that other processes cannot import.
    """

    def __init__(
        self,
        config: TrainConfig,
        owned: Mapping[str, Any],
        sample_shape: tuple[int, ...],
        classes: int,
        weights: Mapping[str, Tensor],
    ) -> None:
        self._builds = config, owned, sample_shape, classes
        self.sample_shape = sample_shape
        self.dtype = torch.float64 if config.precision == "64" else torch.float32
        with _exclusive(owned, "cpu"):
            self.network = build_network(config, sample_shape, classes).to(self.dtype).eval()
            self.network.load_state_dict(weights)
            self.predictor = make_predictor(config.built_rule, self.network)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Fitted, (*self._builds, self.network.state_dict())


class _MemoryRun(TrainingLoop):
    """A run that writes no files, and leaves signals to Python."""

    def __init__(self, config: TrainConfig, dataset: Dataset) -> None:
        super().__init__(config, Path(), None, None, dataset)
        self.stop = _Unstopped()

    def save(self, state: State) -> None:
        """Write no checkpoint."""

    def recovery_hint(self) -> str:
        """Return advice for a diverged run."""
        return "Try a smaller lr, scaled features, or a smaller beta of the rule"

    def _reporters(self, state: State) -> Reporter:
        return self.reporter


class _Unstopped(Stop):
    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Leave the handlers of signals as they are, so that Ctrl-C raises `KeyboardInterrupt`."""
        yield


@contextlib.contextmanager
def _exclusive(owned: Mapping[str, Any], device: str) -> Iterator[None]:
    """Wait for fits in other threads, set `given`, and restore torch's random state and threads."""
    global given
    # Torch seeds all devices at once, and asking for a device's state would start it.
    started = device != "cpu" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.accelerator.device_count()) if started else ()
    kind = str(torch.accelerator.current_accelerator() or "cuda")
    with _turn, preserve_threads(), torch.random.fork_rng(devices, device_type=kind):
        before, given = given, SimpleNamespace(**owned)
        try:
            yield
        finally:
            given = before
