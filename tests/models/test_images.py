import io

import numpy as np
import pytest
import torch
from PIL import Image

from embedscope.data import open_dataset
from embedscope.data.arrays import ArrayRows
from embedscope.errors import InputError, UsageError
from embedscope.models import open_model
from embedscope.models.images import eight_bits, parse_range, standard, to_tensor, visible
from embedscope.models.preparation import Pixels

RAMP = np.linspace(0, 65535, 32 * 32).round().reshape(32, 32)
# Five ways of writing one gray ramp; the mean of each is 0.5.
RAMPS = {
    "8 bits": Image.fromarray((RAMP / 257).round().astype(np.uint8)),
    "16 bits": Image.fromarray(RAMP.astype(np.uint16)),
    "16 bits, high byte first": Image.fromarray(RAMP.astype(">u2")),
    "32 bits": Image.fromarray(RAMP.astype(np.int32)),
    "float": Image.fromarray((RAMP / 65535).astype(np.float32)),
}


@pytest.mark.parametrize("name", RAMPS)
def test_every_depth_gives_the_same_pixels(name):
    pixels = to_tensor(standard(RAMPS[name]))
    assert pixels.shape == (1, 32, 32)
    assert (pixels[0].numpy() - RAMP / 65535).max() <= 0.5 / 255
    if name != "8 bits":
        np.testing.assert_allclose(pixels[0].numpy(), RAMP / 65535, atol=1e-7)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (1, 1, 1)),
        ("L", 51, (0.2, 0.2, 0.2)),
        ("LA", (51, 0), (0.2, 0.2, 0.2)),
        ("La", (51, 255), (0.2, 0.2, 0.2)),
        ("PA", (51, 0), (0.2, 0.2, 0.2)),
        ("RGB", (51, 0, 255), (0.2, 0, 1)),
        ("RGBA", (51, 0, 255, 0), (0.2, 0, 1)),
        ("RGBa", (51, 0, 255, 255), (0.2, 0, 1)),
        ("RGBX", (51, 0, 255, 0), (0.2, 0, 1)),
        ("CMYK", (0, 255, 255, 0), (1, 0, 0)),
        ("YCbCr", (255, 128, 128), (1, 1, 1)),
        ("HSV", (0, 255, 255), (1, 0, 0)),
        ("LAB", (255, 128, 128), (1, 1, 1)),
        ("I", 13107, (0.2, 0.2, 0.2)),
        ("I;16", 13107, (0.2, 0.2, 0.2)),
        ("F", 0.2, (0.2, 0.2, 0.2)),
    ],
)
def test_every_mode_of_pillow(mode, value, expected):
    image = Image.new(mode, (2, 3), value)
    if mode == "PA":
        image.putpalette(bytes(value for level in range(256) for value in (level,) * 3))
    pixels = to_tensor(standard(image, 3), 3)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.float32, (3, 3, 2))
    np.testing.assert_allclose(pixels[:, 0, 0].numpy(), expected, atol=0.005)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparency_of_a_palette_is_dropped_without_a_warning(mode):
    image = Image.new(mode, (2, 2), {"RGB": (0, 0, 0)}.get(mode, 0))
    image.info["transparency"] = {"P": b"\0", "L": 0, "RGB": (0, 0, 0)}[mode]
    assert standard(image, 3).mode == "RGB"
    assert "transparency" in image.info


@pytest.mark.parametrize("mode", ["1", "P"])
def test_bilevel_and_palette_images_are_resized_like_others(mode):
    checks = Image.fromarray((np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8))
    resized = Pixels(size=(4, 4), channels=1)([checks.convert(mode)])
    assert torch.equal(resized, Pixels(size=(4, 4), channels=1)([checks]))
    assert 0.3 < resized.min() < resized.max() < 0.7  # the nearest pixel would be 0 or 1


def test_deep_images_are_resized_within_their_range():
    step = Image.fromarray(np.repeat([0, 65535], 16).astype(np.uint16).reshape(4, 8))
    found = Pixels(size=(16, 16))([step])
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize("value", [255, -0.1, np.nan])
def test_floats_outside_of_the_range(value):
    with pytest.raises(InputError, match=r"mode F has values from .* outside 0..1; set the .* as in `value_range='0,4095'`"):
        standard(Image.new("F", (2, 2), value))


def test_whole_numbers_of_32_bits_beyond_16():
    with pytest.raises(InputError, match=r"mode I has values from 70000 to 70000, outside 0..65535"):
        standard(Image.new("I", (2, 2), 70000))


@pytest.mark.parametrize(("mode", "value"), [("I;16", 1000), ("I", 1000), ("F", 1000.0)])
def test_a_range_that_is_given(mode, value):
    assert to_tensor(standard(Image.new(mode, (2, 2), value), value_range=(0, 4000)))[0, 0, 0] == 0.25
    assert "from 0..4000 to [0, 1]" in Pixels(value_range=(0, 4000)).text


@pytest.mark.parametrize(("text", "expected"), [("0,4095", (0, 4095)), ("-1,1e3", (-1, 1000))])
def test_ranges(text, expected):
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["1,0", "1", "0,inf", "a,b", "0,1,2", "nan,1", ""])
def test_ranges_that_are_none(text):
    with pytest.raises(UsageError, match=r"cannot read the range '.*'; give the black and white"):
        parse_range(text)


def rotated(form):
    """White above and black below as stored; EXIF turns it by 90 degrees, so that white is to the right."""
    image = Image.fromarray(np.repeat([255, 0], 32).astype(np.uint8).reshape(8, 8))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif)
    return Image.open(buffer)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_images_are_upright(form):
    pixels = to_tensor(standard(rotated(form), 1))[0]
    assert pixels[:, :4].max() < 0.05
    assert pixels[:, 4:].min() > 0.95


def test_what_people_see_of_an_image():
    assert np.array_equal(np.asarray(visible(Image.fromarray(np.array([[-1.0, np.nan, 1.0]], np.float32)))), [[0, 127, 255]])
    assert np.array_equal(np.asarray(visible(Image.new("I;16", (1, 1), 300))), [[0]])
    assert visible(rotated("PNG")).getpixel((7, 0)) == (255 if rotated("PNG").mode == "L" else (255, 255, 255))


def test_rounding_to_eight_bits():
    assert np.array_equal(np.asarray(eight_bits(standard(RAMPS["16 bits"]))), np.asarray(RAMPS["8 bits"]))


# ---- the same pixels whatever the model source


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A model of every source that takes images of 32 x 32."""
    pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**small, image_size=32, patch_size=8)
    for saved in (transformers.ViTModel(config), transformers.ViTImageProcessor(size={"height": 32, "width": 32})):
        saved.save_pretrained(folder)
    neutral = {"size": (32, 32), "mean": (0.5,), "std": (0.5,)}
    return {
        "python": open_model("torch.nn:Identity", channels=3, **neutral),
        "timm": open_model("timm:test_resnet(pretrained=False)", **neutral),
        "torchvision": open_model("torchvision:mobilenet_v3_small(pretrained=False)", **neutral),
        "hf": open_model(f"hf:{folder}"),
    }


def test_the_same_pixels_whatever_the_model_source(presets):
    found = {}
    for name, encoder in presets.items():
        images = [
            *RAMPS.values(),
            RAMPS["8 bits"].convert("P"),
            RAMPS["8 bits"].convert("CMYK"),
            rotated("PNG").resize((32, 32)),
        ]
        batches = [encoder.prepare([image]) for image in images]
        found[name] = torch.cat([batch["pixel_values"] if name == "hf" else batch for batch in batches])
    for name, batch in found.items():
        assert batch.shape == (8, 3, 32, 32)
        for ramp in batch[1:7]:  # timm and torchvision resize 8 bits to 8 bits before they cut out the middle
            torch.testing.assert_close(ramp, batch[0], rtol=0, atol=4 / 255, msg=name)
        assert (batch[7, :, 16, 4] < -0.95).all(), name
        assert (batch[7, :, 16, 28] > 0.95).all(), name
    torch.testing.assert_close(found["hf"], found["python"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "layout",
    [
        lambda pixels: pixels,  # (B, H, W)
        lambda pixels: pixels[:, None],
        lambda pixels: pixels[..., None],
        lambda pixels: pixels[:, None].repeat(3, 1),
        lambda pixels: pixels[..., None].repeat(3, -1),
        lambda pixels: pixels[..., None].repeat(4, -1),
    ],
)
def test_arrays_of_bytes_are_the_images_they_hold(presets, layout):
    pixels = np.asarray(RAMPS["8 bits"])[None].repeat(2, 0)
    inputs = ArrayRows(np.ascontiguousarray(layout(pixels)))
    for name, encoder in presets.items():
        found, expected = encoder.prepare(inputs.batch(range(2))), encoder.prepare([RAMPS["8 bits"]] * 2)
        if name == "hf":
            found, expected = found["pixel_values"], expected["pixel_values"]
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_arrays_of_other_whole_numbers_are_not_images(presets, dtype):
    inputs = ArrayRows(np.zeros((2, 32, 32), dtype))
    for encoder in presets.values():
        with pytest.raises(
            InputError, match=r"is not an image; expected uint8 .* scale other integers to floats, as the model"
        ):
            encoder.prepare(inputs.batch(range(2)))


def test_depths_mixed_in_a_batch_do_not_change_each_other(presets):
    for name, encoder in presets.items():
        alone = [encoder.prepare([image]) for image in RAMPS.values()]
        together = encoder.prepare(list(RAMPS.values()))
        if name == "hf":
            alone, together = [batch["pixel_values"] for batch in alone], together["pixel_values"]
        assert torch.equal(together, torch.cat(alone)), name


def test_processors_of_pillow_get_eight_bits(presets):
    prepare = presets["hf"].prepare

    class OnPillow:
        def __call__(self, images, return_tensors):
            return {"pixel_values": torch.stack([torch.from_numpy(np.array(image)) for image in images])}

        def to_dict(self):
            return {}

    on_pillow = type(prepare)(OnPillow(), 3, ("pixel_values",))
    assert torch.equal(on_pillow([RAMPS["16 bits"]])["pixel_values"][0, :, :, 2], torch.from_numpy(np.array(RAMPS["8 bits"])))
    assert "rounded to 8 bits" in on_pillow.text


@pytest.mark.parametrize("source", ["python", "timm", "torchvision", "hf"])
def test_range_reaches_every_source(presets, source):
    encoder = presets[source]
    prepare = open_model(encoder.spec, value_range=(0, 2)).prepare
    assert "from 0..2 to [0, 1]" in prepare.text
    prepare([Image.new("F", (32, 32), 1.5)])


def test_range_of_a_model_of_text(tmp_path):
    from tests.models.test_hf import SMALL, WORDS, make_tokenizer, save

    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **SMALL)
    folder = save(tmp_path / "bert", transformers.BertModel(config), make_tokenizer())
    with pytest.raises(UsageError, match="does not read images through embedscope, so `value_range=` does not apply"):
        open_model(f"hf:{folder}", value_range=(0, 1))


@pytest.mark.parametrize("source", ["folder", "table", "bytes", "hf", "torchvision"])
def test_images_are_upright_whatever_the_data_source(tmp_path, monkeypatch, source):
    place = tmp_path / "data" / "cat" / "1.png"
    place.parent.mkdir(parents=True)
    image = rotated("PNG")
    image.save(place, exif=image.getexif())
    (tmp_path / "a.csv").write_text("path,label\ndata/cat/1.png,cat\n")
    if source in ("bytes", "hf"):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"image": [place.read_bytes()], "label": ["cat"]}), tmp_path / "a.parquet")
    if source == "hf":
        pytest.importorskip("datasets")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    if source == "torchvision":
        pytest.importorskip("torchvision")
    location = {
        "folder": f"{tmp_path / 'data'}",
        "table": f"{tmp_path / 'a.csv'}",
        "bytes": f"{tmp_path / 'a.parquet'}",
        "hf": f"hf:{tmp_path / 'a.parquet'}",
        "torchvision": f"torchvision:ImageFolder(root='{tmp_path / 'data'}')",
    }[source]
    (pixels,) = Pixels(channels=1)([open_dataset(location).inputs[0]])
    assert (pixels[0, :, :4] == 0).all()
    assert (pixels[0, :, 4:] == 1).all()
