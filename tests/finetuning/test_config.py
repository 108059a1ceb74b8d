"""The settings of finetune: one place for defaults, meanings and limits, which the command line reads."""

import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from embedscope.cli.finetune import finetune as command
from embedscope.errors import UsageError
from embedscope.finetuning import TrainingConfig, finetune
from embedscope.store import read_features


def test_settings_need_no_torch():
    code = "import sys, embedscope.finetuning as f; f.TrainingConfig(optimizer='sgd'); import embedscope.cli.finetune; "
    code += "print([m for m in ('torch', 'numpy', 'h5py') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_command_line_has_every_setting_with_its_default_and_meaning():
    parameters = inspect.signature(command).parameters
    for each in fields(TrainingConfig):
        option = parameters[each.name]
        repeated = each.name in ("objectives", "metrics")
        assert option.default == (None if repeated else each.default)
        if each.name not in ("device", "seed") and not repeated:
            assert option.annotation.__metadata__[0].help == each.metadata["help"]
        assert each.metadata["help"] in TrainingConfig.__doc__


def test_no_function_takes_more_settings_than_one_can_survey():
    assert len(inspect.signature(finetune).parameters) < 14


def test_configs_compare_hash_and_are_frozen():
    one, other = TrainingConfig(objectives=["ce"], trials=5), TrainingConfig(objectives="ce", trials=5)
    assert one == other
    assert hash(one) == hash(other)
    assert one != TrainingConfig()
    with pytest.raises(FrozenInstanceError):
        one.trials = 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": []}, "`objectives=` is empty; name at least one"),
        ({"objectives": [3]}, r"`objectives=` must be a string or a list of strings, got \[3\]"),
        ({"trials": 2.0}, "`trials=` must be an integer of at least 1, got 2.0"),
        ({"batch_size": None}, "`batch_size=` must be an integer of at least 1, got None"),
        ({"seed": -1}, "`seed=` must be an integer of at least 0, got -1"),
        ({"memory": 0}, "a memory limit of 0 is too small to work with; give at least 1 byte"),
        ({"head": None}, "`head=` must be a string, got None"),
        ({"weights": 3}, "`weights=` must be a string, got 3"),
        ({"tensorboard": "yes"}, "`tensorboard=` must be True or False, got 'yes'"),
        ({"test_share": 0}, "the share of rows to hold out, must be between 0 and 1, got 0"),
        ({"test_share": float("nan")}, "`test_share=` must be a number, got nan"),
        ({"val_share": -0.1}, "the share of rows to validate on, must be from 0 to below 1, got -0.1"),
        ({"schedule": "plateau(factor=2)"}, "factor of plateau must be between 0 and 1, got 2"),
    ],
)
def test_values_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainingConfig(**settings)


def test_an_unknown_setting_names_the_nearest(make_store, blobs, tmp_path):
    with pytest.raises(UsageError, match="finetune has no setting 'epoch'; did you mean 'epochs'"):
        finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epoch=3)


def test_a_config_and_keywords_are_the_same(make_store, blobs, tmp_path):
    features = read_features(str(make_store(*blobs)))
    first = finetune(features, tmp_path / "a", TrainingConfig(objectives="ce", epochs=2, seed=3))
    second = finetune(features, tmp_path / "b", objectives="ce", epochs=2, seed=3)
    third = finetune(features, tmp_path / "c", TrainingConfig(objectives="ce", epochs=9), epochs=2, seed=3)
    assert first.options == second.options == third.options
    assert first.objectives[0].summary == second.objectives[0].summary == third.objectives[0].summary
