import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from embedscope.errors import InputError, MissingExtraError, UsageError
from embedscope.models import open_model

pytest.importorskip("timm")

RESNET = "timm:test_resnet(pretrained=False)"


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, size=(50 + row, 70, 3), dtype=np.uint8)) for row in range(3)]


def by_hand(name, images, **options):
    """The same model and inputs without embedscope: (B, C, H, W) prepared, (B, K) outputs."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **options).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    batch = torch.stack([transform(image) for image in images])
    with torch.inference_mode():
        return batch, model(batch)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_same_as_timm_by_hand(name, images):
    encoder = open_model(f"timm:{name}(pretrained=False, num_classes=7)")
    batch, expected = by_hand(name, images, num_classes=7)
    prepared = encoder.prepare(images)
    assert torch.equal(prepared, batch)
    with torch.inference_mode():
        assert torch.equal(encoder.module(prepared), expected)
    assert encoder.weights is None
    assert not encoder.module.training


def test_embedding_is_what_goes_into_the_classifier():
    assert open_model(RESNET).embedding == "fc.input"
    assert open_model("timm:test_vit(pretrained=False, num_classes=0)").embedding == "output"


def test_pretrained_weights_are_recorded_and_a_new_classifier_is_not(monkeypatch):
    import timm

    real = timm.create_model

    def create(name, *, pretrained, **options):
        assert pretrained
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    encoder = open_model("timm:test_resnet(num_classes=3)")
    assert encoder.weights.missing == ("fc.weight", "fc.bias")
    assert set(encoder.weights.matched) == set(encoder.module.state_dict()) - {"fc.weight", "fc.bias"}
    assert open_model("timm:test_resnet").weights.missing == ()


def test_gray_models_get_gray_images_with_the_mean_over_channels(images):
    encoder = open_model("timm:test_resnet(pretrained=False, in_chans=1)")
    found = encoder.prepare(images[:1])
    import timm

    config = timm.data.resolve_model_data_config(encoder.module)
    config |= {
        "input_size": (1, *config["input_size"][1:]),
        "mean": (np.mean(config["mean"]),),
        "std": (np.mean(config["std"]),),
    }
    expected = timm.data.create_transform(**config, is_training=False)(images[0].convert("L"))
    assert found.shape[1] == 1
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)


def test_size_mean_and_std_can_be_changed(images):
    encoder = open_model(RESNET, size=(32, 48), mean=(0.5,), std=(0.25, 0.5, 1.0))
    plain = open_model(RESNET, size=(32, 48), mean=(0.0,), std=(1.0,)).prepare(images)
    assert plain.shape == (3, 3, 32, 48)
    assert plain.min() >= 0
    expected = (plain - 0.5) / torch.tensor([0.25, 0.5, 1.0]).reshape(3, 1, 1)
    torch.testing.assert_close(encoder.prepare(images), expected, rtol=0, atol=1e-6)
    assert "size=(32, 48)" in encoder.prepare.text


def test_size_of_the_model_is_the_size_of_images(images):
    encoder = open_model("timm:test_vit(pretrained=False, img_size=64)")
    assert encoder.prepare(images).shape[2:] == (64, 64)
    assert encoder.module(encoder.prepare(images)).shape == (3, 1000)


def test_five_channels_take_arrays_of_floats():
    encoder = open_model("timm:test_resnet(pretrained=False, in_chans=5)")
    batch = torch.rand(2, 5, 32, 32)
    assert encoder.prepare(batch) is batch


def test_five_channels_take_no_image(images):
    encoder = open_model("timm:test_resnet(pretrained=False, in_chans=5)")
    with pytest.raises(InputError, match="takes 5 channels, and images give 1 or 3; give arrays of floats"):
        encoder.prepare(images)


def test_preparation_goes_to_worker_processes(images):
    prepare = open_model(RESNET, size=(32, 32)).prepare
    assert torch.equal(pickle.loads(pickle.dumps(prepare))(images), prepare(images))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            "timm:test_resnt(pretrained=False)",
            UsageError,
            r"no timm model 'test_resnt'; did you mean 'test_resnet'\? .* gives all",
        ),
        ("timm:test_resnet.nope", UsageError, "no pretrained weights of test_resnet 'nope'"),
        (
            "timm:test_resnet(pretrained=False, nope=3)",
            InputError,
            r"test_resnet\(nope=3\) cannot be made \(TypeError: .*'nope'",
        ),
        ("timm:test_resnet(pretrained=0)", UsageError, "pretrained must be True or False"),
        ("timm:cspresnet50d", InputError, r"cannot be had \(RuntimeError: No pretrained .*; give `checkpoint=FILE`"),
        ("timm:test_resnet(checkpoint_path='a.pt')", UsageError, "give it as `checkpoint=`"),
    ],
)
def test_models_that_cannot_be_made(spec, error, message):
    with pytest.raises(error, match=message):
        open_model(spec)


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"weights of timm:test_resnet cannot be had .*timm:test_resnet\(pretrained=False\)"):
        open_model("timm:test_resnet")


def test_a_mean_of_another_count():
    with pytest.raises(UsageError, match="mean has 2 numbers, the model takes 3 channels; give 1 or 3"):
        open_model(RESNET, mean=(0.5, 0.5))


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"timm is not installed; pip install 'embedscope\[vision\]'"):
        open_model(RESNET)
