"""The rules for PyTorch. Users reach everything here through `lra` itself."""

try:
    import torch as torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "this part of lra needs PyTorch, which is not installed: pip install 'lra-e[torch]'. "
        "For Keras models use lra.keras, which does not need it",
        name="torch",
    ) from error
