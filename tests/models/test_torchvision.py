import pickle
import sys
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

from embedscope.errors import InputError, MissingExtraError, UsageError
from embedscope.models import open_model

pytest.importorskip("torchvision")

SMALL = "torchvision:shufflenet_v2_x0_5(pretrained=False)"


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, size=(50 + row, 70, 3), dtype=np.uint8)) for row in range(3)]


def test_same_as_torchvision_by_hand(images):
    from torchvision import models

    encoder = open_model("torchvision:ShuffleNet_v2_x0_5(pretrained=False, num_classes=7)")
    torch.manual_seed(0)
    model = models.shufflenet_v2_x0_5(num_classes=7).eval()
    transform = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    batch = torch.stack([transform(image) for image in images])
    prepared = encoder.prepare(images)
    assert torch.equal(prepared, batch)
    with torch.inference_mode():
        assert torch.equal(encoder.module(prepared), model(batch))
    assert encoder.weights is None
    assert not encoder.module.training


def test_pretrained_weights_are_the_default_ones_and_recorded(monkeypatch):
    from torchvision import models

    real, asked = models.get_model, []

    def get(name, *, weights, progress, **options):
        asked.append((weights, progress))
        return real(name, **options)

    monkeypatch.setattr(models, "get_model", get)
    encoder = open_model("torchvision:shufflenet_v2_x0_5")
    assert asked == [(models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1, False)]
    assert encoder.weights.origin == "torchvision's ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    assert encoder.weights.matched == tuple(encoder.module.state_dict())


def test_weights_that_are_not_loaded_still_say_the_preprocessing():
    first, second = (
        open_model(f"torchvision:mobilenet_v3_large(pretrained=False, weights='IMAGENET1K_V{version}')") for version in (1, 2)
    )
    assert "resize_size=[256]" in first.prepare.text
    assert "resize_size=[232]" in second.prepare.text


def test_embedding():
    assert open_model(SMALL).embedding is None
    assert open_model("torchvision:squeezenet1_1(pretrained=False)").embedding == "classifier.input"


def test_no_backbone_is_fetched_without_pretrained():
    encoder = open_model("torchvision:lraspp_mobilenet_v3_large(pretrained=False)")
    assert encoder.prepare.text.startswith("image: RGB; torchvision's SemanticSegmentation")


def test_size_mean_and_std_can_be_changed(images):
    encoder = open_model(SMALL, size=(28, 42), mean=(0.5,), std=(0.25, 0.5, 1.0))
    plain = open_model(SMALL, size=(28, 42), mean=(0.0,), std=(1.0,)).prepare(images)
    assert plain.shape == (3, 3, 28, 42)
    expected = (plain - 0.5) / torch.tensor([0.25, 0.5, 1.0]).reshape(3, 1, 1)
    torch.testing.assert_close(encoder.prepare(images), expected, rtol=0, atol=1e-6)
    assert "crop_size=[28, 42] resize_size=[48]" in encoder.prepare.text


def test_preset_stays_as_it_was():
    prepare = open_model(SMALL).prepare
    before = prepare.text
    prepare.adjusted(size=(8, 8))
    assert prepare.text == before


def test_preparation_goes_to_worker_processes(images):
    prepare = open_model(SMALL, size=(32, 32)).prepare
    assert torch.equal(pickle.loads(pickle.dumps(prepare))(images), prepare(images))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("torchvision:resnet19", UsageError, r"no torchvision model 'resnet19'; did you mean 'resnet18'\? .* gives all"),
        ("torchvision:resnet18(weights='IMAGENET1K_V3')", UsageError, "did you mean 'IMAGENET1K_V1'"),
        (
            "torchvision:resnet18(pretrained=False, nope=2)",
            InputError,
            r"resnet18\(nope=2\) cannot be made \(TypeError: .*'nope'",
        ),
        (
            "torchvision:resnet18(num_classes=10)",
            InputError,
            r"cannot be had \(ValueError: .*1000 but got 10.*pretrained=False",
        ),
        ("torchvision:resnet18(pretrained='yes')", UsageError, "pretrained must be True or False"),
    ],
)
def test_models_that_cannot_be_made(spec, error, message):
    with pytest.raises(error, match=message):
        open_model(spec)


def test_no_network(monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise urllib.error.URLError("no such host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(InputError, match=r"cannot be had \(URLError: .*\); give `checkpoint=FILE`, or .*pretrained=False"):
        open_model("torchvision:shufflenet_v2_x0_5")


def test_size_of_a_detector():
    with pytest.raises(UsageError, match="`size=`: torchvision's ObjectDetection has none to change"):
        open_model("torchvision:ssdlite320_mobilenet_v3_large(pretrained=False)", size=(32, 32))


def test_image_for_a_video_model(images):
    from torchvision.models.video import R3D_18_Weights

    from embedscope.models.torchvision import _preset

    with pytest.raises(InputError, match="VideoClassification makes, and no image; give arrays of floats"):
        _preset(R3D_18_Weights.DEFAULT.transforms())(images)


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingExtraError, match=r"torchvision is not installed; pip install 'embedscope\[vision\]'"):
        open_model(SMALL)
