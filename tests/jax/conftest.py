"""The JAX tests compute in float64 on two virtual devices, and are left out without JAX."""

import importlib.util
import os


def installed(name):
    """Return whether a package is installed: without it, the name may find a folder of tests."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


if not installed("jax"):
    collect_ignore_glob = ["test_*.py"]
else:
    if not installed("torch"):
        collect_ignore = ["test_jax_torch.py"]  # .ci/jax has an environment with both

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = (  # XLA reads them when JAX first needs a device, up to the first that has no dashes
        "--xla_force_host_platform_device_count=2",
        "--xla_cpu_multi_thread_eigen=false",
        "--xla_backend_optimization_level=0",  # most of the time goes into compiling
        "--xla_llvm_disable_expensive_passes=true",
        os.environ.get("XLA_FLAGS", ""),
    )
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    import jax
    from hypothesis import Phase, settings

    jax.config.update("jax_enable_x64", True)
    settings.register_profile(
        "jax",
        derandomize=True,
        deadline=None,
        max_examples=12,
        phases=[Phase.explicit, Phase.generate],  # every example compiles: shrinking is slow
    )
    settings.load_profile("jax")
