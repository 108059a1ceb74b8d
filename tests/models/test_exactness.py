"""Tensors that are not the numbers they look like: refused by name, and never read as plain numbers."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from embedscope.errors import InputError
from embedscope.models.checkpoint import load_checkpoint


def network():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


def saved(tmp_path, held):
    torch.save(held, tmp_path / "w.pt")
    return str(tmp_path / "w.pt")


def changed(**entries):
    """A state dict of the network with entries changed, "__" for dots, and None for gone."""
    state = network().state_dict() | {name.replace("__", "."): value for name, value in entries.items()}
    return {name: value for name, value in state.items() if value is not None}


INT8 = torch.ones(4, 4, dtype=torch.int8)
FLOAT8 = torch.ones(4, 4).to(torch.float8_e4m3fn)
QUANTIZED = {
    "bitsandbytes": (
        {"0__weight": INT8, "0__SCB": torch.ones(4)},
        r"0\.weight is int8 .* separate scales \(0\.SCB\)",
    ),
    "int8 alone": ({"0__weight": INT8}, r"0\.weight is int8 and the model's is float32; they cannot be loaded"),
    "float8 with a scale": (
        {"0__weight": FLOAT8, "0__weight_scale_inv": torch.ones(1)},
        r"0\.weight is float8_e4m3fn .*\(0\.weight_scale_inv\)",
    ),
    "float8 with a scale of a common name": ({"0__weight": FLOAT8, "0__scale": torch.ones(1)}, r"\(0\.scale\)"),
    "4 bits of bitsandbytes": (
        {"0__weight": torch.ones(8, 1, dtype=torch.uint8), "0__weight__absmax": torch.ones(1)},
        r"0\.weight is uint8 .*\(0\.weight\.absmax\)",
    ),
    "4 bits of GPTQ": (
        {"0__weight": None, "0__qweight": torch.ones(1, 4, dtype=torch.int32), "0__scales": torch.ones(1, 4)},
        r"its weights are packed, with separate scales \(0\.qweight\)",
    ),
    "in a prefix": ({"0__weight": INT8.to(torch.uint8), "0__zero_point": torch.ones(1)}, r"\(0\.zero_point\)"),
}


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_quantized_weights(tmp_path, kind, suffix):
    entries, message = QUANTIZED[kind]
    held = changed(**entries)
    path = tmp_path / f"w.{suffix}"
    save_file(held, path) if suffix == "safetensors" else torch.save(held, path)
    with pytest.raises(InputError, match=f"w.{suffix} holds quantized weights: .*{message}"):
        load_checkpoint(network(), str(path))


def test_scales_of_the_network_itself(tmp_path):
    net = nn.ModuleDict({"0": nn.Linear(4, 4)})
    net.register_buffer("weight_scale", torch.ones(2))
    load_checkpoint(net, saved(tmp_path, net.state_dict()))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.empty(4, 4, device="meta"), r"tensors without data \(device meta\)"),
        (lambda: torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8), "quantized tensors"),
        (lambda: torch.eye(4).to_sparse(), "sparse tensors"),
        (lambda: torch.eye(4).to_sparse_csr(), "sparse tensors"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:.*Sparse CSR:UserWarning", "ignore:.*quantize:UserWarning", "ignore:.*deprecated:UserWarning"
)
def test_tensors_without_one_number_per_place(tmp_path, make, kind):
    with pytest.raises(InputError, match=rf"holds {kind} \(0\.weight\); save the weights as dense floating-point tensors"):
        load_checkpoint(network(), saved(tmp_path, changed(**{"0__weight": make()})))


@pytest.mark.filterwarnings("ignore:.*nested:UserWarning")
def test_nested_tensors(tmp_path):
    nested = torch.nested.nested_tensor([torch.ones(2, 2), torch.ones(3, 2)])
    read = torch.__version__ < (2, 14)  # later ones refuse to rebuild them
    message = r"holds nested tensors \(0\.weight\)" if read else r"would run torch\._utils\._rebuild_nested_tensor"
    with pytest.raises(InputError, match=message):
        load_checkpoint(network(), saved(tmp_path, changed(**{"0__weight": nested})))


@pytest.mark.parametrize(
    ("tensor", "dtype", "right"),
    [
        (torch.ones(2, dtype=torch.int64), torch.float32, True),
        (torch.full((2,), 2**24 + 1), torch.float32, False),
        (torch.ones(2, dtype=torch.uint16), torch.float32, True),
        (torch.full((2,), 2**63, dtype=torch.uint64), torch.float32, False),
        (torch.tensor([True, False]), torch.float32, True),
        (torch.tensor([1.0, 2.0]), torch.int64, True),
        (torch.tensor([1.5, 2.0]), torch.int64, False),
        (torch.tensor([1j, 2.0]), torch.float32, False),
        (torch.ones(2, dtype=torch.float64) / 3, torch.float32, True),
        (torch.ones(2, dtype=torch.bfloat16), torch.float32, True),
        (torch.full((2,), 300.0), torch.int8, False),
    ],
)
def test_numbers_of_another_dtype_stay_themselves_or_are_refused(tmp_path, tensor, dtype, right):
    module = nn.Module()
    module.register_buffer("x", torch.zeros(2, dtype=dtype))
    path = saved(tmp_path, {"x": tensor})
    if right:
        load_checkpoint(module, path)
        assert torch.equal(module.x, tensor.to(dtype))
    else:
        with pytest.raises(InputError, match=r"x is \w+ and the model's is \w+, which cannot represent its values;"):
            load_checkpoint(module, path)


LORA = {"0.lora_A.default.weight": torch.ones(2, 4), "0.lora_B.default.weight": torch.ones(4, 2)}
ADAPTERS = {
    "peft": LORA,
    "older diffusers": {"0.lora_down.weight": torch.ones(2, 4), "0.lora_up.weight": torch.ones(4, 2)},
    "loralib": {"0.lora_A": torch.ones(2, 4), "0.lora_B": torch.ones(4, 2)},
    "LoHa": {"0.hada_w1_a": torch.ones(4, 2)},
    "IA3": {"0.ia3_l.default": torch.ones(4, 1)},
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("front", ["", "base_model.model."])
def test_adapter_beside_its_base(tmp_path, kind, front):
    held = {f"{front}{name}": tensor for name, tensor in (changed() | ADAPTERS[kind]).items()}
    with pytest.raises(InputError, match=r"(LoRA|an) adapter with its base weights; the adapter would be ignored .*merge it"):
        load_checkpoint(network(), saved(tmp_path, held))


def test_adapter_in_a_set_of_its_own(tmp_path):
    with pytest.raises(InputError, match="holds a LoRA adapter"):
        load_checkpoint(network(), saved(tmp_path, {"state_dict": changed(), "adapter": LORA}))


def test_adapter_alone(tmp_path):
    with pytest.raises(InputError, match="holds a LoRA adapter without the base weights that it modifies"):
        load_checkpoint(network(), saved(tmp_path, {f"base_model.model.{name}": tensor for name, tensor in LORA.items()}))


def test_adapter_that_the_network_has(tmp_path):
    net = nn.ModuleDict({"lora_A": nn.Linear(4, 2), "base": nn.Linear(4, 4)})
    assert load_checkpoint(net, saved(tmp_path, {k: v + 1 for k, v in net.state_dict().items()})).left_over == ()
