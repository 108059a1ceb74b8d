import importlib.util
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from embedscope.errors import InputError, MissingExtraError, UsageError
from embedscope.models import open_model

library = pytest.importorskip("sentence_transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "query:", "a", "good", "bad", "film", "was", "the"]
TEXTS = ["a good film", "the film was bad bad bad", "good"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def save(tmp_path):
    """Save a BERT with mean pooling as sentence-transformers does."""
    import transformers
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel

    def write(**options):
        tokens = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokens.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **special).save_pretrained(tmp_path / "bert")
        config = transformers.BertConfig(
            vocab_size=len(WORDS),
            max_position_embeddings=12,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
        )
        transformers.BertModel(config).save_pretrained(tmp_path / "bert")
        first = modules.Transformer(str(tmp_path / "bert"))
        pooling = modules.Pooling(8, pooling_mode="mean", include_prompt=False)
        model = library.SentenceTransformer(modules=[first, pooling, modules.Normalize()], device="cpu", **options)
        model.save(str(tmp_path / "model"))
        return str(tmp_path / "model")

    return write


@torch.inference_mode()
def run(encoder, texts):
    return encoder.call(encoder.module, encoder.prepare(texts))["sentence_embedding"].numpy()


def test_same_as_encode(save):
    folder = save()
    encoder = open_model(f"st:{folder}")
    expected = library.SentenceTransformer(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(run(encoder, TEXTS), expected, rtol=0, atol=1e-7)
    assert encoder.embedding == "output.sentence_embedding"
    assert not encoder.module.training
    assert (encoder.weights.missing, encoder.weights.notes) == ((), ())
    assert encoder.weights.matched == tuple(encoder.module.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in encoder.prepare(TEXTS).values())


def test_layers_inside_take_hooks(save):
    encoder = open_model(f"st:{save()}")
    name = next(name for name, _ in encoder.module.named_modules() if name.endswith("encoder.layer.1"))
    seen = []
    encoder.module.get_submodule(name).register_forward_hook(lambda module, args, output: seen.append(output))
    run(encoder, TEXTS)
    tokens = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert tokens.shape == (3, 8, 8)  # (texts, [CLS] + 6 words + [SEP], width)


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ("", {}),
        ("(prompt='')", {"prompt": ""}),
        ("(prompt='the ')", {"prompt": "the "}),
        ("(prompt_name='other')", {"prompt_name": "other"}),
    ],
)
def test_prompts_are_those_of_encode(save, options, same):
    folder = save(prompts={"query": "query: ", "other": "a film "}, default_prompt_name="query")
    expected = library.SentenceTransformer(folder, device="cpu").encode(TEXTS, **same)
    np.testing.assert_allclose(run(open_model(f"st:{folder}{options}"), TEXTS), expected, rtol=0, atol=1e-7)


def test_embeddings_are_cut_as_encode_cuts_them(save):
    folder = save()
    expected = library.SentenceTransformer(folder, device="cpu", truncate_dim=3).encode(TEXTS)
    np.testing.assert_allclose(run(open_model(f"st:{folder}(truncate_dim=3)"), TEXTS), expected, rtol=0, atol=1e-7)


def test_preparation_goes_to_worker_processes_without_the_weights(save):
    encoder = open_model(f"st:{save()}(prompt='the ')")
    assert {value.device.type for value in encoder.prepare.first.parameters()} == {"meta"}
    assert {value.device.type for value in encoder.module.parameters()} == {"cpu"}
    again = pickle.loads(pickle.dumps(encoder.prepare))(TEXTS)
    for name, value in encoder.prepare(TEXTS).items():
        assert torch.equal(again[name], value)
    assert encoder.prepare.text.endswith("cut to 12 tokens, after the prompt 'the '")


def test_loading_is_silent(save, capfd):
    folder = save()
    capfd.readouterr()
    open_model(f"st:{folder}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("prompt='a', prompt_name='query'", UsageError, "either prompt or prompt_name, not both"),
        ("prompt_name='quer'", UsageError, "st:.* has no prompt 'quer'; did you mean 'query'"),
        ("nope=1", InputError, r"cannot be opened \(TypeError: .*nope.*\); give a folder with modules\.json"),
    ],
)
def test_wrong_options(save, options, error, message):
    folder = save(prompts={"query": "query: "})
    with pytest.raises(error, match=message):
        open_model(f"st:{folder}({options})")


def test_a_plain_transformer_gets_mean_pooling_and_says_what_its_file_lacks(save, tmp_path):
    import transformers

    save()
    config = transformers.AutoConfig.from_pretrained(tmp_path / "bert")
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    encoder = open_model(f"st:{tmp_path}/bert")
    assert [name.rpartition("pooler.")[2] for name in encoder.weights.missing] == ["dense.weight", "dense.bias"]
    assert set(encoder.weights.missing) < set(encoder.module.state_dict())
    assert "the mean over its tokens is used" in encoder.weights.notes[0]


def test_images(save):
    with pytest.raises(InputError, match="the model takes text, but the data are Tensor; give a table with a text column"):
        open_model(f"st:{save()}").prepare(torch.zeros(2, 3, 8, 8))


def test_folder_that_is_not_there():
    with pytest.raises(InputError, match="no such folder: /no/where; st: takes a folder, or a name on the hub"):
        open_model("st:/no/where")


def test_no_network():
    with pytest.raises(InputError, match=r"st:nobody/nothing cannot be opened \(OSError: .*\); give a folder"):
        open_model("st:nobody/nothing")


def test_without_sentence_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"sentence_transformers is not installed; pip install 'embedscope\[text\]'"):
        open_model("st:anything")


def test_code_of_the_model_does_not_run_unless_trusted(save, tmp_path):
    folder = Path(save())
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "own.Module"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    with pytest.raises(InputError, match=r"cannot be opened .*trust_remote_code"):
        open_model(f"st:{folder}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(importlib.util.find_spec("peft") is not None, reason="peft applies the adapter")
def test_adapter_beside_base_weights(save):
    folder = save()
    (Path(folder) / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(InputError, match=r"holds an adapter \(.*adapter_config\.json\), which would be ignored without peft"):
        open_model(f"st:{folder}")
