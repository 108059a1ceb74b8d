import importlib.util
import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from embedscope.errors import InputError, MissingExtraError, UsageError
from embedscope.models import open_model

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>", "a", "good", "bad", "film", "was", "the"]
TEXTS = ["a good film", "the film was bad bad bad", "good"]
SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {**SMALL, "image_size": 16, "patch_size": 8}


def make_tokenizer(**special):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokens = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = special or {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="[UNK]", **special)


def save(folder, model, *processors):
    torch.manual_seed(1)
    for saved in (model, *processors):
        saved.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def bert(tmp_path):
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **SMALL)
    return save(tmp_path / "bert", transformers.BertModel(config), make_tokenizer())


@pytest.fixture
def vit(tmp_path):
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    return save(tmp_path / "vit", transformers.ViTModel(transformers.ViTConfig(**VISION)), processor)


@pytest.fixture
def clip(tmp_path):
    text = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 3}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=4)
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    return save(tmp_path / "clip", transformers.CLIPModel(config), processor, make_tokenizer())


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, size=(20 + row, 30, 3), dtype=np.uint8)) for row in range(3)]


@torch.inference_mode()
def run(encoder, batch):
    return encoder.module(**batch) if encoder.call is None else encoder.call(encoder.module, batch)


def test_text_same_as_transformers_by_hand(bert):
    encoder = open_model(f"hf:{bert}")
    batch = encoder.prepare(TEXTS)
    expected = transformers.AutoTokenizer.from_pretrained(bert)(TEXTS, padding=True, return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask"]
    for name, value in batch.items():
        assert torch.equal(value, expected[name])
    with torch.inference_mode():
        by_hand = transformers.AutoModel.from_pretrained(bert)(**expected)
    found = run(encoder, batch)
    assert torch.equal(found.last_hidden_state, by_hand.last_hidden_state)
    assert torch.equal(found.pooler_output, by_hand.pooler_output)
    assert (encoder.embedding, encoder.weights.missing) == ("output", ())
    assert set(encoder.weights.matched) == set(encoder.module.state_dict())


def test_image_same_as_transformers_by_hand(vit, images):
    encoder = open_model(f"hf:{vit}")
    batch = encoder.prepare(images)
    expected = transformers.AutoImageProcessor.from_pretrained(vit)(images=images, return_tensors="pt")
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    with torch.inference_mode():
        by_hand = transformers.AutoModel.from_pretrained(vit)(**expected)
    assert torch.equal(run(encoder, batch).last_hidden_state, by_hand.last_hidden_state)
    assert re.search(r"image_mean=[(\[]0\.5, 0\.5, 0\.5[)\]]", encoder.prepare.text)  # by the version


def test_floats_are_prepared_already(vit):
    batch = torch.rand(2, 3, 16, 16)
    assert torch.equal(open_model(f"hf:{vit}").prepare(batch)["pixel_values"], batch)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_one_half_of_clip(clip, images, modality):
    encoder = open_model(f"hf:{clip}(modality='{modality}')")
    batch = encoder.prepare(images if modality == "image" else TEXTS)
    seen = []
    encoder.module.get_submodule(encoder.embedding).register_forward_hook(lambda module, args, output: seen.append(output))
    run(encoder, batch)
    model = transformers.CLIPModel.from_pretrained(clip)
    with torch.inference_mode():
        whole = model(
            **{**open_model(f"hf:{clip}").prepare(images), **open_model(f"hf:{clip}(modality='text')").prepare(TEXTS)}
        )
    features = whole.image_embeds if modality == "image" else whole.text_embeds
    assert torch.allclose(torch.nn.functional.normalize(seen[0]), features, rtol=0, atol=1e-6)
    assert open_model(f"hf:{clip}").embedding == "visual_projection"


def test_one_half_of_siglip(tmp_path, images):
    text = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 12}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    folder = save(tmp_path / "siglip", transformers.SiglipModel(config), processor, make_tokenizer())
    encoder = open_model(f"hf:{folder}")
    batch = encoder.prepare(images)
    with torch.inference_mode():
        expected = transformers.SiglipModel.from_pretrained(folder).vision_model(**batch).pooler_output
    assert torch.equal(run(encoder, batch).pooler_output, expected)
    assert encoder.embedding == "output.pooler_output"
    assert set(encoder.weights.matched) == set(encoder.module.state_dict())


def test_encoder_of_t5(tmp_path):
    config = transformers.T5Config(vocab_size=len(WORDS), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    folder = save(tmp_path / "t5", transformers.T5Model(config), make_tokenizer())
    encoder = open_model(f"hf:{folder}")
    batch = encoder.prepare(TEXTS)
    with torch.inference_mode():
        expected = transformers.T5Model.from_pretrained(folder).encoder(**batch).last_hidden_state
    assert torch.equal(run(encoder, batch).last_hidden_state, expected)


def test_what_the_weights_lack_is_missing(tmp_path, capfd):
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **SMALL)
    folder = save(tmp_path / "masked", transformers.BertForMaskedLM(config), make_tokenizer())
    capfd.readouterr()
    encoder = open_model(f"hf:{folder}")
    assert encoder.weights.missing == ("pooler.dense.weight", "pooler.dense.bias")
    assert "cls.predictions.bias" in encoder.weights.left_over
    assert capfd.readouterr() == ("", "")


def test_logging_is_as_it_was(bert):
    before = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    open_model(f"hf:{bert}")
    assert (transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()) == before


def test_half_precision_is_loaded_as_float32(tmp_path):
    model = transformers.ViTModel(transformers.ViTConfig(**VISION)).to(torch.bfloat16)
    folder = save(tmp_path / "half", model, transformers.ViTImageProcessor(size={"height": 16, "width": 16}))
    assert {value.dtype for value in open_model(f"hf:{folder}").module.parameters()} == {torch.float32}


def test_without_pretrained_it_is_as_its_configuration_starts(bert):
    encoder = open_model(f"hf:{bert}(pretrained=False)")
    assert encoder.weights is None
    loaded = open_model(f"hf:{bert}").module.embeddings.word_embeddings.weight
    assert not torch.equal(encoder.module.embeddings.word_embeddings.weight, loaded)


def test_checkpoint_in_place_of_the_weights(bert):
    encoder = open_model(f"hf:{bert}", f"{bert}/model.safetensors")
    for name, value in open_model(f"hf:{bert}").module.state_dict().items():
        assert torch.equal(encoder.module.state_dict()[name], value)


@pytest.mark.parametrize(("option", "length"), [("", 12), ("(max_length=4)", 4)])
def test_texts_are_cut_to_what_the_model_takes(bert, option, length):
    encoder = open_model(f"hf:{bert}{option}")
    batch = encoder.prepare(["bad " * 50])
    assert batch["input_ids"].shape == (1, length)
    assert f"cut to {length} tokens" in encoder.prepare.text
    assert run(encoder, batch).last_hidden_state.shape == (1, length, 8)


def test_positions_of_roberta_start_after_the_padding(tmp_path):
    config = transformers.RobertaConfig(vocab_size=len(WORDS), max_position_embeddings=12, pad_token_id=0, **SMALL)
    encoder = open_model(f"hf:{save(tmp_path / 'roberta', transformers.RobertaModel(config), make_tokenizer())}")
    batch = encoder.prepare(["bad " * 50])
    assert batch["input_ids"].shape == (1, 11)
    assert run(encoder, batch).last_hidden_state.shape == (1, 11, 8)


def test_eos_pads_where_there_is_no_pad_token(tmp_path):
    config = transformers.GPT2Config(vocab_size=len(WORDS), n_positions=12, n_embd=8, n_layer=1, n_head=2)
    folder = save(tmp_path / "gpt2", transformers.GPT2Model(config), make_tokenizer(eos_token="</s>"))
    encoder = open_model(f"hf:{folder}")
    batch = encoder.prepare(TEXTS)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == WORDS.index("</s>")).all()
    assert encoder.prepare.text.endswith("with its eos token </s>, because it has no pad token")


def test_preparation_goes_to_worker_processes(bert, vit, images):
    for location, items in ((bert, TEXTS), (vit, images)):
        prepare = open_model(f"hf:{location}").prepare
        again = pickle.loads(pickle.dumps(prepare))(items)
        for name, value in prepare(items).items():
            assert torch.equal(again[name], value)


def test_images_for_a_model_of_text(bert, images):
    with pytest.raises(InputError, match="the model takes text, but the data are Image"):
        open_model(f"hf:{bert}").prepare(images)


def test_text_for_a_model_of_images(vit):
    with pytest.raises(InputError, match="the data are text, but the model takes images"):
        open_model(f"hf:{vit}").prepare(TEXTS)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ("modality='imge'", UsageError, "no modality 'imge'; did you mean 'image'"),
        ("modality='image'", InputError, r"has no image processor that can be loaded \(image: "),
        ("trust_remote_code='yes'", UsageError, "trust_remote_code must be True or False"),
        ("max_length=0", UsageError, "max_length must be a number of at least 1"),
        ("max_length=13", InputError, "max_length=13 is more than the 12 positions of the model"),
        ("nope=1", InputError, r"cannot be opened \(TypeError: .*nope"),
    ],
)
def test_wrong_options(bert, option, error, message):
    with pytest.raises(error, match=message):
        open_model(f"hf:{bert}({option})")


@pytest.mark.parametrize("location", ["./nowhere", "/no/where", "a/b/c"])
def test_folder_that_is_not_there(location):
    with pytest.raises(InputError, match=f"no such folder: {location}; hf: takes a folder, or a name on the hub"):
        open_model(f"hf:{location}")


def test_no_network():
    with pytest.raises(
        InputError, match=r"hf:nobody/nothing cannot be opened \(OSError: .*\); give a folder with config\.json"
    ):
        open_model("hf:nobody/nothing")


def test_truncated_weights(bert):
    path = f"{bert}/model.safetensors"
    with open(path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=r"bert cannot be opened \(SafetensorError: .*\); give a folder"):
        open_model(f"hf:{bert}")


def test_folder_without_a_processor(tmp_path):
    folder = save(tmp_path / "bare", transformers.ViTModel(transformers.ViTConfig(**VISION)))
    with pytest.raises(InputError, match="has no image processor and no tokenizer that can be loaded"):
        open_model(f"hf:{folder}")


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"transformers is not installed; pip install 'embedscope\[hf\]'"):
        open_model("hf:anything")


def test_tokenizer_without_a_vocabulary(tmp_path):
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match=r"has no vocabulary|has no image processor and no tokenizer"):
        open_model(f"hf:{tmp_path / 'bare'}")


@pytest.mark.parametrize("scales", [True, False])
def test_quantized_weights_that_the_configuration_is_silent_of(bert, scales):
    path = Path(bert) / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith("query.weight"))
    state[name] = state[name].to(torch.int8)
    if scales:
        state[name.replace("weight", "SCB")] = torch.ones(8)
    save_file(state, path, {"format": "pt"})
    with pytest.raises(InputError, match=rf"hf:.* holds quantized weights: {name} is I8.*SCB" if scales else f"{name} is I8"):
        open_model(f"hf:{bert}")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_of_the_model_does_not_run_unless_trusted(bert, tmp_path):
    bert = Path(bert)
    config = json.loads((bert / "config.json").read_text()) | {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (bert / "config.json").write_text(json.dumps(config))
    (bert / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    with pytest.raises(InputError, match=r"cannot be opened .*trust_remote_code"):
        open_model(f"hf:{bert}")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_run_no_code(bert, tmp_path):
    bert = Path(bert)
    (bert / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Evil(tmp_path / "ran")}, bert / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be opened"):
        open_model(f"hf:{bert}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(importlib.util.find_spec("peft") is not None, reason="peft applies the adapter")
def test_adapter_beside_base_weights(bert):
    (Path(bert) / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": bert}))
    with pytest.raises(InputError, match=r"holds an adapter \(.*adapter_config\.json\), which would be ignored without peft"):
        open_model(f"hf:{bert}")
