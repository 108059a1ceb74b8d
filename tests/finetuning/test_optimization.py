import pytest
import torch

from embedscope.errors import UsageError
from embedscope.finetuning.optimization import Schedule, build_optimizer, check_optimizer, check_schedule


def rates(spec, epochs, steps, values=None):
    """Learning rates after every step, of a schedule that is told `values` after the epochs."""
    optimizer = build_optimizer("sgd", [torch.nn.Parameter(torch.zeros(1))], 0.5, 0.0)
    schedule = Schedule(spec, optimizer, epochs)
    found = []
    for epoch in range(epochs):
        for step in range(1, steps + 1):
            schedule.after_step(epoch + step / steps)
            found.append(optimizer.param_groups[0]["lr"])
        schedule.after_epoch(values[epoch] if values else 0.0)
    return found


def test_cosine_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    expected = []
    for _ in range(12):
        optimizer.step()
        reference.step()
        expected.append(optimizer.param_groups[0]["lr"])
    assert rates("cosine", 3, 4) == pytest.approx(expected, abs=1e-15)
    assert rates("cosine", 3, 4)[-1] == pytest.approx(0, abs=1e-15)


def test_plateau_falls_when_the_validation_stays():
    found = rates("plateau(factor=0.5, patience=1)", 7, 1, values=[0.1, 0.3, 0.3, 0.2, 0.3, 0.4, 0.4])
    assert found == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_constant_stays():
    assert set(rates("constant", 3, 2)) == {0.5}


def test_optimizers_are_those_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    adamw = build_optimizer("adamw(beta1=0.8)", [parameter], 0.1, 0.2)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["betas"], adamw.defaults["lr"], adamw.defaults["weight_decay"]) == ((0.8, 0.999), 0.1, 0.2)
    sgd = build_optimizer("SGD(momentum=0.5, nesterov=True)", [parameter], 0.1, 0.2)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.5, True)


@pytest.mark.parametrize(
    ("check", "spec", "message"),
    [
        (check_optimizer, "adam", "no optimizer 'adam'; did you mean 'adamw'"),
        (check_optimizer, "sgd(momentum=1.0)", "momentum of sgd must be from 0 to below 1, got 1.0"),
        (check_optimizer, "sgd(momentum=0, nesterov=True)", "needs a momentum above 0"),
        (check_optimizer, "adamw(lr=1)", "adamw takes beta1=0.9, beta2=0.999"),
        (check_optimizer, "sgd(0.9)", "sgd takes momentum=0.9, nesterov=False"),
        (check_schedule, "plateau(factor=2)", "factor of plateau must be between 0 and 1, got 2"),
        (check_schedule, "plateau(patience=-1)", "patience of plateau must be a whole number from 0"),
        (check_schedule, "cosine(epochs=3)", "cosine takes no options"),
    ],
)
def test_specs_that_cannot_be(check, spec, message):
    with pytest.raises(UsageError, match=message):
        check(spec)
