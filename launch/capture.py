"""A whole iteration as one CUDA graph (``trainer.capture``): recorded once, then replayed without Python.

Small networks are bound by launches on a GPU: the host takes 8 to 13 us for each kernel, and the GPU waits for it. What
is recorded is ``device_step`` of a ``WholeIteration``: forward, backward, clipping and every optimiser's step. What
changes from one iteration to the next reaches it through tensors that keep their places (``Staging``), learning rates
among them. Everything else of a run (evaluation, checkpoints, averages, logging) goes on between replays as it does
without, and a checkpoint is the same.

``rehearse`` does all of this but the recording, on a CPU too, so that tests find what a replay would do otherwise.
"""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from foundation.errors import UserError
from foundation.protocols import WholeIteration, said
from lightning_modules.ahead import Places, leaves_of, on_device, tree_of
from lightning_modules.micro_batches import Inputs
from lightning_modules.turns import TakesTurns

Asked = bool | Literal["auto", "rehearse"]

WARM_UP = 3
"""Iterations of a fit that are taken as usual: they create the optimisers' state and the libraries' handles."""

SKIPPED_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


# --- whether ---------------------------------------------------------------------------------------------------------


def strategy_of(
    asked: Asked, node: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Callback]
) -> tuple["CapturingStrategy | None", str]:
    """What takes a run's iterations whole, None where they are taken as usual; and which it is, for a record.

    Args:
        node: of the trainer.

    Raises:
        UserError: it was asked for, and cannot be.
    """
    if asked is False:
        return None, "off"
    reason = why_not(node, module, datamodule, callbacks)
    on_gpu = node["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if reason is None and asked != "rehearse" and not on_gpu:
        reason = "only a CUDA device records graphs"
    if reason is None:
        strategy = CapturingStrategy("cuda:0" if on_gpu else "cpu", rehearses=asked == "rehearse")
        return strategy, "rehearsed" if asked == "rehearse" else "on"
    if asked == "auto":
        return None, f"off: {reason}"
    raise UserError(f"trainer.capture={str(asked).lower()}: {reason}; or set trainer.capture=false.")


def why_not(node: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Callback]) -> str | None:
    """Why a replay could not do what an iteration of this run does; None where it can."""
    if node["devices"] not in (1, "1") or node["num_nodes"] != 1 or node["strategy"] != "auto":
        return "an iteration is captured on one device alone"
    if module.automatic_optimization or not isinstance(module, WholeIteration):
        return f"{type(module).__name__} does not take its iterations as one function of fixed shapes"
    if node["precision"] == "16-mixed":
        return "with trainer.precision=16-mixed the host decides whether a step is taken: use bf16-mixed"
    if node["detect_anomaly"]:
        return "trainer.detect_anomaly looks at every value on the host"
    if reason := said(module, "not_capturable")():
        return reason
    padded = said(datamodule, "pad_to_max_length")
    if said(datamodule, "vocabulary_size") is not None and not padded:
        if padded is None:
            return f"batches of {said(datamodule, 'name')} differ in length, and no key gives them one shape"
        return "batches of texts differ in length: set datamodule.pad_to_max_length=true"
    for callback in callbacks:
        for hook in SKIPPED_HOOKS:
            if is_overridden(hook, callback, parent=Callback):
                return f"a replay would skip {hook} of {type(callback).__name__}"
    made = module.make_optimizers()  # pyright: ignore[reportAttributeAccessIssue]
    if unfused := sorted({type(it).__name__ for it in made if not it.defaults.get("fused")}):
        return f"{' and '.join(unfused)} would read its rate on the host: set fused to true in lightning_module's"
    return None


# --- what changes ----------------------------------------------------------------------------------------------------


class Staging:
    """Tensors in fixed places on a device, into which every iteration's inputs are copied.

    What comes from the host goes in one copy, from two pinned buffers in turn, so that the host fills one while the
    other is on its way and never waits for the device.

    Args:
        inputs: of the first iteration; those of every other have the same names, shapes and types.
    """

    def __init__(self, inputs: Inputs, device: torch.device) -> None:
        self.device, self.form = device, form_of(inputs)
        of_host, pinned = Places(inputs), device.type == "cuda"
        self.buffers = [torch.empty(of_host.size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self.arrived = [torch.cuda.Event() for _ in self.buffers] if pinned else []
        self.on_device = torch.empty(of_host.size, dtype=torch.uint8, device=device)
        self.on_host = [of_host.of(buffer) for buffer in self.buffers]
        elsewhere = {name: torch.empty_like(it) for name, it in leaves_of(inputs) if name not in of_host.like}
        self.places = elsewhere | of_host.of(self.on_device)
        self.inputs = tree_of(self.places, inputs)
        """The places, as a step takes them."""
        self.filled = 0

    def takes(self, inputs: Inputs) -> bool:
        return form_of(inputs) == self.form

    def fill(self, inputs: Inputs) -> Inputs:
        turn, leaves = self.filled % 2, dict(leaves_of(inputs))
        self.filled += 1
        if self.arrived:
            self.arrived[turn].synchronize()  # of two iterations ago
        for name, place in self.on_host[turn].items():
            place.copy_(leaves[name])
        self.on_device.copy_(self.buffers[turn], non_blocking=True)
        if self.arrived:
            self.arrived[turn].record()
        for name in leaves.keys() - self.on_host[turn].keys():
            self.places[name].copy_(leaves[name], non_blocking=True)
        return self.inputs


def form_of(inputs: Inputs) -> dict[tuple[str, ...], Any]:
    return {name: (it.shape, it.dtype, it.device) for name, it in leaves_of(inputs)}


# --- an iteration ----------------------------------------------------------------------------------------------------


class CapturingStrategy(SingleDeviceStrategy):
    """One device that takes every iteration of a ``WholeIteration`` whole.

    Inputs of another form than the first iteration's (a last batch that is shorter) are taken as usual.

    Args:
        rehearses: nothing is recorded; as it is on a CPU.
    """

    strategy_name = "capturing"

    def __init__(self, device: str, rehearses: bool, **strategy: Any) -> None:
        super().__init__(torch.device(device), **strategy)
        self.staging: Staging | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = None if rehearses else torch.cuda.Stream(self.root_device)
        self.outputs: dict[str, Tensor] = {}
        self.taken = 0  # whole iterations of this fit
        self.places: dict[str, int] = {}
        """Where everything lay that outlives an iteration when one was recorded."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        batch, batch_idx = (*args, *kwargs.values())[:2]
        module: Any = self.lightning_module
        if batch_idx == 0:
            self.check_places()
        with self.precision_plugin.train_step_context():
            inputs = module.host_inputs(batch, module.trainer.global_step)
            if self.staging is None:
                self.staging = Staging(inputs, self.root_device)
            if self.staging.takes(inputs):
                outputs = self.take(module, self.staging.fill(inputs))
            else:
                outputs = module.device_step(on_device(inputs, self.root_device))
            return module.after_iteration(outputs)

    def take(self, module: Any, inputs: Inputs) -> dict[str, Tensor]:
        """What it gives is overwritten by the next one: who keeps it copies it."""
        self.taken += 1
        if self.stream is None:
            return module.device_step(inputs)
        if self.taken <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                outputs = module.device_step(inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return outputs
        if self.graph is None:
            self.graph = self.recorded(module, inputs)
        self.graph.replay()
        return self.outputs

    def recorded(self, module: Any, inputs: Inputs) -> torch.cuda.CUDAGraph:
        """Nothing of the iteration is executed. ``thread_local``: threads that pin memory may go on."""
        graph, self.places = torch.cuda.CUDAGraph(), self.addresses()
        try:
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.outputs = module.device_step(inputs)
        except RuntimeError as error:  # Python's state is half changed, so that it cannot go on as usual
            raise UserError(
                f"An iteration of {type(module).__name__} cannot be captured ({first_cause(error)}): set "
                "trainer.capture=false."
            ) from error
        self.check_places()  # what is made while recording lies in the graph's memory, and every replay makes it anew
        return graph

    # --- a run -------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Rates become tensors, into which schedules write; when all of a checkpoint has been restored."""
        super().on_train_start()
        # The CPU's fused steps compute with the rate in double precision.
        on_cpu = self.root_device.type == "cpu"
        dtype = torch.float64 if on_cpu else torch.float32
        for group in self.groups():
            group["lr"] = torch.tensor(float(group["lr"]), dtype=dtype, device=self.root_device)
            if not on_cpu and "capturable" in group:
                group["capturable"] = True
        for optimizer in self.optimizers:  # else torch warns of ``capturable`` in the first steps, which are as usual
            optimizer._warned_capturable_if_run_uncaptured = True  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(self.lightning_module, TakesTurns):
            self.lightning_module.draw_ahead()  # also where a CPU rehearses

    def on_validation_end(self) -> None:
        super().on_validation_end()
        self.check_places()

    def check_places(self) -> None:
        """After whatever may have made a tensor anew: an evaluation, or what begins an epoch."""
        if not self.places:
            return
        now = self.addresses()
        if moved := [name for name in now | self.places if self.places.get(name) != now.get(name)]:
            raise UserError(
                f"{', '.join(moved[:3])} lies elsewhere than when the iteration was captured, which a replay would not "
                "see: write into it with copy_, or set trainer.capture=false."
            )

    def addresses(self) -> dict[str, int]:
        """Where everything lies that outlives an iteration, by its name."""
        module: Any = self.lightning_module
        named = [*module.named_parameters(), *module.named_buffers()]
        for number, optimizer in enumerate(self.optimizers):
            named += [(f"the rate of optimiser {number}", group["lr"]) for group in optimizer.param_groups]
            for place, state in enumerate(optimizer.state.values()):
                named += [(f"{key} {place} of optimiser {number}", it) for key, it in state.items()]
        return {name: it.data_ptr() for name, it in named if isinstance(it, Tensor)}

    def groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def optimizer_state(self, optimizer: Optimizer | LightningOptimizer) -> dict[str, Any]:
        """As without capture, so that a run goes on with or without it."""
        state: dict[str, Any] = super().optimizer_state(optimizer)  # pyright: ignore[reportArgumentType]
        groups = [{key: float(it) if key == "lr" else it for key, it in group.items()} for group in
                  state["param_groups"]]  # fmt: skip
        return {**state, "param_groups": [group | asked_by(optimizer, "capturable", group) for group in groups]}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        for schedule in checkpoint.get("lr_schedulers", []):
            if "_last_lr" in schedule:  # torch's own
                schedule["_last_lr"] = [float(it) for it in schedule["_last_lr"]]
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def teardown(self) -> None:
        self.graph, self.outputs, self.staging, self.places = None, {}, None, {}
        self.taken = 0  # another fit has other optimisers, whose state must not be made while recording
        super().teardown()


def first_cause(error: BaseException) -> str:
    """What an operator has said; that the recording then could not be ended is raised over it."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    own = [it for it in traceback.extract_tb(error.__traceback__) if "site-packages" not in it.filename]
    return f"{str(error).splitlines()[0]}, {Path(own[-1].filename).name}:{own[-1].lineno}"


def asked_by(optimizer: Any, key: str, group: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimiser was made with, where a group has such a key."""
    return {key: optimizer.defaults[key]} if key in group else {}
