"""Compiled steps: forward, the rule's updates in one compiled graph, then the optimizer's own step.

The optimizer is not traced: its fused kernels are as fast as compiled ones, or faster, and so its
hooks, its state and its step sizes stay what they are in a loop of one's own.
"""

import inspect
import itertools
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch._dynamo
import torch._inductor
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.utils import counters
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from lra.axis import unknown
from lra.errors import CompileError, OptionError, one_line
from lra.torch.distributed import is_sharded

GRAPHS = 16
"""For how many shapes and modes a step is compiled before it refuses to go on."""

_SETTINGS = {
    "trace_autograd_ops": True,  # the way back is part of the graph
    "specialize_float": True,  # a rule's numbers are constants of the graph
}
"""What torch's tracer is set to while a step is compiled."""

_numbers = itertools.count()


def compile_step(
    model: nn.Module,
    loss: Callable[[Any, Any], Any],
    optimizer: torch.optim.Optimizer,
    *,
    has_aux: bool = False,
    mode: str | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> "CompiledStep":
    """Compile a training step: `value = step(x, t)` computes the updates and takes the step.

    It does what these lines do, with the same numbers but for rounding, and for a model converted
    to any rule as for a plain one:

        optimizer.zero_grad()
        value = loss(model(x), t)
        value.backward()
        optimizer.step()

    The first three are one compiled graph. The optimizer takes its own step beside it, with its
    hooks; its state and `state_dict()` are an eager loop's, and a schedule may change its groups
    between steps at no cost. Pick `fused=True` where the optimizer has it.

    The graph is compiled when it is first needed, which takes seconds: for every shape of x and t,
    for `model.train()` and `.eval()`, after `requires_grad_`, and where a setting of the model
    changes, anew. So an epoch's smaller last batch costs one more compilation. What torch compiled
    once in any process it takes from its cache on disk.

    Random numbers, as dropout's, are those of the eager loop.

    Args:
        model: the model, converted or plain.
        loss: gives a scalar from `model(x)` and t.
        optimizer: what moves the parameters; any that needs no closure.
        has_aux: whether `loss` gives a pair of the scalar and something more, of tensors, as
            `torch.func.grad` has it; the step then gives such a pair.
        mode: torch.compile's. "reduce-overhead" has CUDA replay the graph, which spares launches;
            x, t and the parameters' places in memory should then stay the same.
        backend: torch.compile's.

    Returns:
        A function of x and t. It gives the loss before the step, detached. Afterwards each
        parameter's `.grad` holds the update of this step, and None where the loss does not reach
        it; what it held before the step is gone, for all parameters of the model and the optimizer.

    Raises:
        OptionError: for arguments of another kind.
        CompileError: where torch has no such compiler, for optimizers that need a closure, and
            for models whose updates are gathered by hooks (data-parallel and sharded ones).
    """
    return CompiledStep(model, loss, optimizer, has_aux, mode, backend)


def available() -> bool:
    """Tell whether this torch can compile the way back."""
    return hasattr(torch._dynamo.config, "trace_autograd_ops")


class CompiledStep:
    """A training step of one model under one optimizer; made by `lra.compile_step`.

    Attributes:
        compilations: how many graphs were compiled so far.
        seconds: that compiling took, each graph's first run included.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Any],
        optimizer: torch.optim.Optimizer,
        has_aux: bool,
        mode: str | None,
        backend: str | Callable[..., Any],
    ) -> None:
        _check(model, loss, optimizer)
        self._model, self._optimizer, self._has_aux = model, optimizer, has_aux
        options = _options(mode, backend)
        self._replayed = bool(options and options.get("triton.cudagraphs"))
        self.compilations, self.seconds = 0, 0.0

        def updates(parameters: list[Tensor], x: Any, t: Any) -> tuple[Any, ...]:
            found = loss(model(x), t)
            value, aux = found if has_aux else (found, None)
            if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
                return value, aux, None
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            return value.detach(), tree_map_only(Tensor, torch.detach, aux), gradients

        settings = _SETTINGS | {"recompile_limit": GRAPHS}
        self._settings = torch._dynamo.config.patch(settings)  # made once: making it takes time
        self._graph: Callable[..., tuple[Any, ...]] = torch.compile(
            _apart(updates), fullgraph=True, dynamic=False, backend=backend, options=options
        )

    def __call__(self, x: Any, t: Any) -> Any:
        """Take a step on a batch; give its loss, and what else the loss gives where it has_aux."""
        found = self.updates(x, t)
        self._optimizer.step()
        return found

    def updates(self, x: Any, t: Any) -> Any:
        """Compute a batch's updates without taking the step: fill each parameter's `.grad`.

        What is to be done with them before `optimizer.step()`, such as clipping, goes after it.

        Returns:
            The loss, and what else it gives where it has_aux.
        """
        if not torch.is_grad_enabled():
            raise CompileError("a compiled step needs gradients: call it outside torch.no_grad()")
        if torch._C._is_any_autocast_enabled():
            raise CompileError(
                "a compiled step would take autocast for the way back too: have the model enter "
                "torch.autocast in its own forward, and call the step outside"
            )
        parameters = self._learning()
        if self._replayed:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        value, aux, gradients = self._run(parameters, x, t)
        if gradients is None:
            raise OptionError(
                "compile_step: loss must give a scalar that depends on the parameters, and with "
                f"has_aux a pair of it and something more; got {_kind(value)}"
            )
        if self._replayed:  # the next replay writes over what this one gave
            value, aux = tree_map_only(Tensor, torch.clone, (value, aux))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return (value, aux) if self._has_aux else value

    def _learning(self) -> list[Tensor]:
        """Give the parameters that require gradients, and clear all parameters' `.grad`."""
        held = [p for group in self._optimizer.param_groups for p in group["params"]]
        every = dict.fromkeys((*self._model.parameters(), *held))
        found = [parameter for parameter in every if parameter.requires_grad]
        if not found:
            raise CompileError("compile_step: no parameter of the model requires a gradient")
        for parameter in found:
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                raise CompileError(
                    f"compile_step: a parameter of shape {tuple(parameter.shape)} has a hook on "
                    "its gradient, which a compiled step would pass by. Do in the optimizer's "
                    "register_step_pre_hook what the hook does"
                )
        for parameter in every:
            parameter.grad = None
        return found

    def _run(self, parameters: list[Tensor], x: Any, t: Any) -> tuple[Any, ...]:
        """Run the graph; compile it first, where there is none yet for such arguments."""
        before, start = counters["stats"]["unique_graphs"], time.perf_counter()
        try:
            with self._settings:
                found = self._graph(parameters, x, t)
        except FailOnRecompileLimitHit as error:
            raise CompileError(
                f"the step was compiled for {GRAPHS} kinds of arguments, and these are another. "
                "Give all batches the same shape (drop the last, or pad), change no settings of "
                "the model in each step, or train without compile_step"
            ) from error
        except TorchDynamoException as error:
            raise CompileError(_explain(error)) from error
        if counters["stats"]["unique_graphs"] != before:
            self.compilations += 1
            self.seconds += time.perf_counter() - start
        return found


def _apart(function: Any) -> Any:
    """Give a function with code of its own: torch counts the graphs of a code, of all steps'."""
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    return FunctionType(
        code, function.__globals__, code.co_name, function.__defaults__, function.__closure__
    )


def _check(model: Any, loss: Any, optimizer: Any) -> None:
    """Refuse arguments of another kind, and what a compiled step would do wrong."""
    if not available():
        raise CompileError(
            f"compile_step: torch {torch.__version__} cannot compile the way back; torch 2.11 can"
        )
    for name, value, kind in (
        ("model", model, nn.Module),
        ("optimizer", optimizer, torch.optim.Optimizer),
    ):
        if not isinstance(value, kind):
            raise OptionError(
                f"compile_step: {name} must be a {kind.__module__.removesuffix('.optimizer')}."
                f"{kind.__name__}; got {type(value).__name__}"
            )
    if not callable(loss):
        raise OptionError(
            "compile_step: loss must be a function of the model's output and t, such as "
            f"torch.nn.functional.cross_entropy; got {type(loss).__name__}"
        )
    for name, module in model.named_modules():
        if isinstance(module, (DistributedDataParallel, nn.DataParallel)) or is_sharded(module):
            raise CompileError(
                f"compile_step: {name or 'the model'} ({type(module).__name__}) gathers updates "
                "over devices by hooks, which a compiled step would pass by; train it in a loop"
            )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise CompileError(
            f"compile_step: {type(optimizer).__name__} evaluates the loss several times a step, "
            "by a closure; take another optimizer, such as torch.optim.AdamW, or train in a loop"
        )


def _options(mode: str | None, backend: Any) -> dict[str, Any] | None:
    """Give torch.compile's options for a mode, with random numbers as they are in eager mode."""
    if backend != "inductor":
        if mode is not None:
            raise OptionError(f"compile_step: mode {mode!r} is for the backend 'inductor'")
        return None
    modes = {"default": {}, **torch._inductor.list_mode_options()}
    if mode is not None and mode not in modes:
        raise unknown("mode", mode, modes)
    return {
        "fallback_random": True,
        **modes[mode or "default"],
    }


def _explain(error: BaseException) -> str:
    """Say why torch did not compile, and how to mend it."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, (InvalidCxxCompiler, CppCompileError)):
            return (
                "compile_step: torch needs a working C++ compiler, and found none: install one "
                "(apt-get install g++, or Xcode's command line tools), or name it in the "
                f"environment variable CXX; or train without compile_step ({one_line(chain)})"
            )
        chain = getattr(chain, "inner_exception", None) or chain.__cause__ or chain.__context__
    first, *others = str(error).splitlines()
    details = [line for line in others if "debug context:" in line or "File" in line][:4]
    return (
        "compile_step: torch cannot compile this step as one graph; train without compile_step, "
        "or change what stands in the way: " + "\n".join((first, *details))
    )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__
