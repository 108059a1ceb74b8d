"""Call a model on batches: on its device, in its precision, in pieces that fit into memory."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from embedscope import devices, distributed
from embedscope.errors import EmbedscopeError, InputError, UsageError
from embedscope.extraction.loading import DEAD_WORKER, is_dead_worker
from embedscope.extraction.unfilled import check_weights
from embedscope.models.inputs import call, count_rows, cut, mapped, repeated, shapes
from embedscope.models.layers import Layer, Taps, find
from embedscope.models.listing import LayerInfo, Listing
from embedscope.models.precision import OutOfDeviceMemoryError, autocast_type, device_of, is_out_of_memory, numerics
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from embedscope.models.encoder import Encoder
    from embedscope.models.head import TrainedHead
    from embedscope.models.pooling import Pooling

LOGITS = "logits"

# The largest batches that "auto" tries: beyond them no device computes a row faster.
_LARGEST = {"cuda": 1024}
_LARGEST_ELSEWHERE = 256

# The share of the free memory that activations may take. On a GPU it is measured; elsewhere it is estimated from the sizes of
# all outputs, and other programs want their part.
_SHARE = {"cuda": 0.8}
_SHARE_ELSEWHERE = 0.25


class Runner:
    """A model on its device with taps on its layers; a context manager.

    `plan` has to come first: it runs a sample, finds the layers and says how each is pooled. Then a call on the inputs of a
    batch gives the pooled arrays. A `live` module is in training elsewhere: what it caches must be of use there too.

    Attributes:
        device: that the model runs on.
        autocast: the type of torch.autocast, or None.
        layers: what is written, in order.
        widths: layer -> D, behind the head, if any.
        poolings: layer -> how it is pooled.
        captured: layer -> (features, magnitudes or None) of the last forward pass.
        seconds_per_row: that a forward pass of the sample took, an upper bound of what a row takes in a batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        device: str = "auto",
        amp: bool = False,
        deterministic: bool = False,
        head: TrainedHead | None = None,
        live: bool = False,
        say: Callable[[str], None],
    ) -> None:
        self.encoder = encoder
        self._live = live
        self._head = head
        self.device = device_of(encoder, device)
        self.autocast = autocast_type(self.device) if amp else None
        self.layers: list[Layer] = []
        self.widths: dict[str, int] = {}
        self._deterministic = deterministic
        self._say = say
        self._piece = encoder.batch_size or 0  # rows in a forward pass; 0 for all of a batch
        self._taps = Taps(encoder, ())
        self._channels_last = False
        self._laid_out: list[tuple[Tensor, Tensor]] = []  # weights, and their data as they were found
        self.seconds_per_row = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Runner:
        held = [*self.encoder.module.parameters(), *self.encoder.module.buffers()]
        if any(tensor.is_meta for tensor in held):
            raise InputError(f"{self.encoder.spec} is on the meta device, where weights have no values; create it on the CPU")
        self.encoder.module.to(self.device).eval()
        if self._head is not None:
            self._head.head.to(self.device)
        self._float = next((tensor.dtype for tensor in held if tensor.is_floating_point()), torch.float32)
        if self._prefers_channels_last():
            self._lay_out(channels_last=True)
        self._stack.enter_context(numerics(self.device, exact=self.autocast is None, deterministic=self._deterministic))
        # What a module caches in inference mode could never again take part in training.
        self._stack.enter_context(torch.no_grad() if self._live else torch.inference_mode())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        if self._channels_last:
            self._lay_out(channels_last=False)

    @property
    def poolings(self) -> Mapping[str, Pooling]:
        """Layer -> how it is pooled."""
        return self._taps.poolings

    @property
    def captured(self) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """Layer -> (features, magnitudes or None) of the last forward pass; behind the head, if any."""
        if self._head is None:
            return self._taps.captured
        return {name: pair if name == LOGITS else (self._headed(pair[0]), None) for name, pair in self._taps.captured.items()}

    def listing(self, sample: Any) -> list[LayerInfo]:
        """Return one line per module with the shape of its output for a sample."""
        with Listing(self.encoder) as listing:
            output = self._forward(self._fixed(sample))
        return list(listing.lines(output))

    def plan(self, sample: Any, names: Sequence[str], *, pooling: str, logits: bool, allow_partial: bool) -> None:
        """Find the layers, run the sample through them, plan how they are pooled, and check that their weights were loaded."""
        sample = self._fixed(sample)
        with Listing(self.encoder) as listing:
            output = self._forward(sample)  # the first pass may also make what is lazy
        self._sample_bytes = listing.bytes / count_rows(sample)
        found = find(self.encoder, names or [self._embedding(listing)], pooling=pooling)
        # A pattern also matches containers that never run, such as a ModuleList.
        self.layers = [layer for layer in found if not layer.matched or layer.module in listing.ran]
        if not self.layers:
            raise InputError(f"none of the layers that {', '.join(names)} matches ran in the forward pass")
        if self._head is not None:
            if len(self.layers) > 1:
                raise UsageError(
                    f"the head {self._head.path} belongs to a single layer, but {len(self.layers)} are selected; select one"
                )
            self.layers = [replace(self.layers[0], name="embedding")]  # what the store of the run calls it too
        wanted = (
            [*self.layers, Layer(LOGITS, "", "output", LOGITS if isinstance(output, Mapping) and LOGITS in output else None)]
            if logits
            else self.layers
        )
        if logits and any(layer.name == LOGITS for layer in self.layers):
            raise UsageError("a layer named logits and `logits=True` cannot share a store; omit one of them")
        self._taps = Taps(self.encoder, wanted)
        self._stack.enter_context(self._taps)
        with self._taps.probe():
            started = time.perf_counter()
            self._tapped(sample)
            self.seconds_per_row = (time.perf_counter() - started) / count_rows(sample)
        for name, times in self._taps.times.items():
            if times > 1:
                self._say(f"layer {name} runs {times} times in a forward pass; the last call is used")
        idle = [layer.name for layer in wanted if layer.name not in self.captured]
        if idle:
            raise InputError(f"layer {idle[0]} did not run in the forward pass of {self.encoder.spec}")
        if logits and self.poolings[LOGITS].positions:
            raise UsageError(
                f"{self.encoder.spec} has no logits: it gives {self.poolings[LOGITS].shape} per sample; omit `logits=True`"
            )
        self._check_rows(count_rows(sample))
        self.widths = {name: int(features.shape[1]) for name, (features, _) in self.captured.items()}
        check_weights(self.encoder, lambda: self._features(sample), allow_partial=allow_partial, say=self._say)

    def __call__(self, inputs: Any) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Run a batch: layer -> features (B, D) and magnitudes (B, C) or None, on the CPU, float32."""
        count = count_rows(inputs)
        done = 0
        pieces: list[dict[str, tuple[Tensor, Tensor | None]]] = []
        while done < count:
            size = min(self._piece or count, count - done)
            try:
                pieces.append(self._measured(cut(inputs, done, done + size), size))
            except OutOfDeviceMemoryError as error:
                if size == 1 or self.encoder.batch_size:
                    raise InputError(f"{self.encoder.spec} does not fit into the memory of {self.device}: {error}") from error
                self._piece = size // 2
                self._say(f"out of memory with {counted(size, 'row')} per forward pass; continuing with {self._piece}")
                continue
            done += size
        if len(pieces) == 1:
            return pieces[0]
        return {name: _joined([piece[name] for piece in pieces]) for name in pieces[0]}

    def seed(self, number: int) -> None:
        """Seed what the model may draw from; torch.manual_seed takes 1 ms, because it notes where it was called."""
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)
        elif self.device.type == "mps":
            torch.mps.manual_seed(number)

    def fitting(self, sample: Any) -> int:
        """Find how many rows fit into a forward pass: a power of two. All processes of a group find the same."""
        if self.encoder.batch_size:
            return self.encoder.batch_size
        kind = self.device.type
        free = devices.free_memory(self.device) * _SHARE.get(kind, _SHARE_ELSEWHERE) / max(distributed.local_world_size(), 1)
        largest, size, bytes_of_one = _LARGEST.get(kind, _LARGEST_ELSEWHERE), 1, self._sample_bytes
        while size < largest and 2 * size * bytes_of_one < free:
            if kind == "cuda":
                try:
                    bytes_of_one = self._peak(repeated(sample, 2 * size)) / (2 * size)
                except OutOfDeviceMemoryError:
                    break
            size *= 2
        return distributed.all_reduce_object(size, min)

    def _headed(self, features: Tensor) -> Tensor:
        """Take pooled features (B, D) through the head: (B, E)."""
        assert self._head is not None
        if features.shape[1] != self._head.dim:
            raise InputError(
                f"the head {self._head.path} takes {counted(self._head.dim, 'value')} per row, but the layer gives "
                f"{features.shape[1]}; it was trained on "
                f"{self._head.layer or 'features of no model'}: name that layer with `layers=`"
            )
        embedding: Tensor = self._head.head(features.float())[0]
        return embedding

    def _embedding(self, listing: Listing) -> str:
        if self.encoder.embedding is not None:
            return self.encoder.embedding
        if listing.linears:
            return f"{listing.linears[-1]}.input"
        if isinstance(self.encoder.module, nn.Linear):
            return "input"
        names = [name for name, _ in self.encoder.module.named_modules() if name]
        raise UsageError(
            f"{self.encoder.spec} has no Linear whose input could be the embedding; name a layer with `layers=`: "
            f"{', '.join([*names[-10:], 'output'])}" + ("; `list_layers()` prints all" if len(names) > 10 else "")
        )

    def _measured(self, inputs: Any, rows: int) -> dict[str, tuple[Tensor, Tensor | None]]:
        self._tapped(self._fixed(inputs))
        self._check_rows(self.encoder.batch_size or rows)
        found, captured = {}, self.captured
        for name in self.widths:
            if name not in captured:
                raise InputError(f"layer {name} ran for the first input, but not for all of them")
            features, magnitudes = captured[name]
            if features.shape[1] != self.widths[name]:
                raise InputError(
                    f"layer {name} gives {counted(features.shape[1], 'value')} per row here, but gave {self.widths[name]} "
                    "for the first input; resize the inputs to one size, or pool with mean"
                )
            found[name] = (features[:rows].float().cpu(), None if magnitudes is None else magnitudes[:rows].float().cpu())
        return found

    def _check_rows(self, expected: int) -> None:
        for name, (features, _) in self.captured.items():
            if len(features) != expected:
                raise InputError(
                    f"layer {name} gives {counted(len(features), 'row')} for {counted(expected, 'sample')}: its first axis "
                    "is not the batch, or it mixes samples"
                )

    def _prefers_channels_last(self) -> bool:
        """Whether convolutions run with the channels last in memory: they and pooling take 0.3 to 0.95 of the time on a CPU.

        Programs that were traced may hold steps that need the usual order.
        """
        has_own = type(self.encoder.module).__name__ in ("UnflattenedModule", "GraphModule")
        if self.encoder.outputs_only or has_own or not (self.device.type == "cpu" or self.autocast is not None):
            return False
        return any(isinstance(module, nn.Conv2d) for module in self.encoder.module.modules())

    def _lay_out(self, *, channels_last: bool) -> None:
        """Lay the weights of convolutions out for maps with the channels last in memory, or give them back what they had.

        They get back the very memory that they had: optimizers, gradients and graphs that are waiting for `backward` find it.
        """
        with torch.inference_mode(mode=False):  # else the weights would never again take part in training
            if channels_last:
                weights = [module.weight for module in self.encoder.module.modules() if isinstance(module, nn.Conv2d)]
                usual = {id(weight): weight for weight in weights if not is_lazy(weight) and weight.is_contiguous()}
                self._laid_out = [(weight, weight.data) for weight in usual.values()]
            for weight, data in self._laid_out:
                # Not contiguous(): with one channel in, it takes either order for the other and changes nothing.
                weight.data = data.to(memory_format=torch.channels_last) if channels_last else data
        self._channels_last = channels_last

    def _features(self, sample: Any) -> dict[str, Tensor]:
        self._tapped(sample)
        return {name: features for name, (features, _) in self.captured.items()}

    def _tapped(self, inputs: Any) -> None:
        moved = mapped(lambda tensor: tensor.to(self.device), inputs)
        self._taps.start(moved)
        self._taps.end(self._forward(moved))

    def _forward(self, inputs: Any) -> Any:
        try:
            return self._called(inputs)
        except EmbedscopeError:
            raise
        except Exception as error:  # user code: its own message is the best explanation available
            if is_dead_worker(error):  # torch tells it in the middle of whatever runs
                raise InputError(DEAD_WORKER) from error
            if self._channels_last and not is_out_of_memory(error):  # a view of maps needs the usual order in memory
                self._lay_out(channels_last=False)
                return self._forward(inputs)
            reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
            if is_out_of_memory(error):
                raise OutOfDeviceMemoryError(reason) from error
            wanted = re.search(r"to have ([13]) channels?, but got [13] channels? instead", reason)
            hint = f"; `channels={wanted[1]}` converts images to that" if wanted else ""
            raise InputError(f"{self.encoder.spec} does not take inputs of {shapes(inputs)}: {reason}{hint}") from error

    def _called(self, inputs: Any) -> Any:
        def laid_out(tensor: Tensor) -> Tensor:
            tensor = tensor.to(self.device, self._float if tensor.is_floating_point() else tensor.dtype)
            return tensor.contiguous(memory_format=torch.channels_last) if self._channels_last and tensor.ndim == 4 else tensor

        run = self.encoder.call or call
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return run(self.encoder.module, mapped(laid_out, inputs))

    def _peak(self, inputs: Any) -> int:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._tapped(inputs)
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def _fixed(self, inputs: Any) -> Any:
        """Fill a batch up with its last row where the model takes one size only."""
        size = self.encoder.batch_size
        if size is None or count_rows(inputs) == size:
            return inputs
        last = cut(inputs, count_rows(inputs) - 1, count_rows(inputs))
        return mapped(
            lambda one, rest: torch.cat([one, rest.expand(size - len(one), *rest.shape[1:])]), cut(inputs, 0, size), last
        )


def _joined(parts: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    magnitudes = [each for _, each in parts if each is not None]
    return torch.cat([features for features, _ in parts]), torch.cat(magnitudes) if magnitudes else None
