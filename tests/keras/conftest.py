"""The Keras tests run on the backend that KERAS_BACKEND names, and are skipped without Keras."""

import importlib.util
import os

import pytest

_spec = importlib.util.find_spec("keras")
if _spec is None or _spec.origin is None:  # without Keras, the name finds this folder
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "keras",
        derandomize=True,
        deadline=None,
        max_examples=12,
        phases=[Phase.explicit, Phase.generate],  # every example compiles a step: shrinking is slow
        suppress_health_check=[HealthCheck.function_scoped_fixture],  # float64 for a whole test
    )
    settings.load_profile("keras")

    _KERAS_OWN = (  # warnings from inside Keras and its backends
        "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning",
        "ignore:<class 'torch.autograd.function.Function'> should not:DeprecationWarning",
        "ignore:The `native_serialization` parameter is deprecated:DeprecationWarning",
        "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
    )

    def pytest_configure(config):
        for line in _KERAS_OWN:
            config.addinivalue_line("filterwarnings", line)

    @pytest.fixture(autouse=True)
    def _seed() -> None:
        """Start every test from the same seed and a clear session."""
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)

    @pytest.fixture
    def precise():
        """Compute in float64 on TensorFlow; Keras's JAX and torch backends fall back to float32."""
        if keras.backend.backend() == "tensorflow":
            keras.config.set_floatx("float64")
        yield
        keras.config.set_floatx("float32")
