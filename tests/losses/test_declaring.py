"""What @loss takes off a formula: precision, autocast, batches of too few classes, the mean of values per sample."""

import copy
import pickle

import pytest
import torch
from torch import nn

from embedscope import plugins
from embedscope.losses import loss
from embedscope.losses.expression import build

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@loss(reference="doi:none", classes=2)
class spread(nn.Module):  # noqa: N801
    """What a third party would write: the formula, and nothing else."""

    def __init__(self, num_classes, dim, *, factor=1.0):
        super().__init__()
        self.factor, self.weight = factor, nn.Parameter(torch.ones(dim))

    def forward(self, features, labels, logits):
        self.seen = (features.dtype, logits.dtype, torch.is_autocast_enabled("cpu"))
        return self.factor * (features @ self.weight.to(features.dtype)).square().mean()


@loss(reference="doi:none", classes=2)
class per_row(nn.Module):  # noqa: N801
    def per_sample(self, features, labels, logits):
        return (features @ features.T).sum(dim=1) + logits.sum(dim=1)


class Plain(nn.Module):
    def forward(self, features, labels, logits):
        return (features @ features.T).mean()


@loss(reference="doi:none", classes=2)
def made_by_a_function(num_classes, dim, *, factor=1.0):
    return Plain()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_formula_sees_float32_at_least_and_no_autocast(dtype):
    made = spread(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = made(ROWS.to(dtype), LABELS, ROWS.to(dtype))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert made.seen == (wide, wide, False)
    assert made.given_dtype == dtype
    assert value.dtype == wide


@pytest.mark.parametrize("factory", [per_row, made_by_a_function])
def test_other_forms_are_as_precise(factory):
    made = factory() if factory is per_row else factory(3, 4)
    exact = made(ROWS, LABELS, ROWS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(ROWS, LABELS, ROWS), exact)


@pytest.mark.parametrize("factory", [per_row, spread, made_by_a_function])
def test_a_batch_of_one_class_is_zero_with_a_graph(factory):
    made = factory() if factory is per_row else factory(3, 4)
    features, logits = ROWS.clone().requires_grad_(), ROWS.clone().requires_grad_()
    value = made(features, torch.ones(6, dtype=torch.int64), logits)
    value.backward()
    assert value.item() == 0
    assert value.shape == ()
    assert features.grad.abs().max() == logits.grad.abs().max() == 0
    assert made(ROWS, LABELS, ROWS).item() != 0


def test_a_loss_is_the_mean_of_its_values_per_sample():
    made = per_row()
    assert torch.equal(made(ROWS, LABELS, ROWS), made.per_sample(ROWS, LABELS, ROWS).mean())
    assert made.per_sample(ROWS, LABELS * 0, ROWS).tolist() == [0] * 6


def test_a_class_without_a_formula_is_refused():
    with pytest.raises(TypeError, match="the loss empty has neither forward nor per_sample"):

        @loss(reference="doi:none")
        class empty(nn.Module):  # noqa: N801
            pass


def test_a_function_that_gives_a_class_of_torch_is_refused():
    """Wrapping it would change it for everybody."""
    before = nn.TripletMarginLoss.forward
    made = loss(reference="doi:none")(lambda num_classes, dim: nn.TripletMarginLoss())
    with pytest.raises(TypeError, match=r"TripletMarginLoss.forward takes \(anchor, positive, negative\); a loss takes"):
        made(3, 4)
    assert nn.TripletMarginLoss.forward is before


def test_a_function_that_gives_no_module_is_refused():
    def forgetful(num_classes, dim):
        pass

    with pytest.raises(TypeError, match="the loss forgetful returned NoneType, expected a torch"):
        loss(reference="doi:none")(forgetful)(3, 4)


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(ValueError, match="the `classes` of a loss must be 1 or 2, got 3"):
        loss(reference="doi:none", classes=3)


@pytest.mark.parametrize("name", plugins.names("losses"))
def test_modules_are_copied_pickled_and_loaded(name):
    if name in {"pml", "supcon", "triplet", "npair", "contrastive", "multi_similarity"} or name.startswith(("prox", "norm")):
        pytest.importorskip("pytorch_metric_learning")
    options = {"loss": "SupConLoss"} if name == "pml" else {}
    made = plugins.load("losses", name)(3, 4, **options).eval()
    expected = value(made)
    assert torch.equal(value(copy.deepcopy(made)), expected)
    assert torch.equal(value(pickle.loads(pickle.dumps(made))), expected)
    other = plugins.load("losses", name)(3, 4, **options).eval()
    other.load_state_dict(made.state_dict())
    assert torch.equal(value(other), expected)


def value(module):
    torch.manual_seed(0)
    return module(ROWS, LABELS, ROWS[:, :3]).detach()


@pytest.mark.parametrize("name", ["ce", "comp_sum", "ldr", "z_loss", "uniformity", "sface"])
def test_a_formula_without_questions_compiles_in_one_graph(name):
    """The wrapper breaks no graph; a formula that looks at labels does so by itself."""
    made = plugins.load("losses", name)(3, 4)
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    assert compiled(ROWS, LABELS, ROWS[:, :3]).item() == pytest.approx(made(ROWS, LABELS, ROWS[:, :3]).item(), rel=1e-6)


def test_an_objective_in_half_precision_is_one_in_float32():
    objective = build("ce + 0.5*silhouette + gini", 3, 4)
    half = ROWS.half()
    found = objective(half, LABELS, half[:, :3])
    assert found.item() == pytest.approx(objective(half.float(), LABELS, half[:, :3].float()).item(), rel=1e-6)
